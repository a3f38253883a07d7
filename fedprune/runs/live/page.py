"""The live page of a run: a frame that the script fills, in the report's look, light and dark."""

from __future__ import annotations

import base64
import hashlib

from fedprune.runs.live.script import SCRIPT
from fedprune.runs.report.style import STYLE

SCRIPT_HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""What a content security policy calls the page's script, so that no other runs in it."""

_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1f2937; --dim: #64748b; --paper: #fff; --card: #f1f5f9; --line: #e5e7eb; --pale: #94a3b8; --bad: #b91c1c;
  --good: #15803d; --late: #a16207; --refused: #7e22ce; --aside: #0e7490;
  --s0: #2563eb; --s1: #16a34a; --s2: #9333ea; --s3: #0891b2; --s4: #ca8a04; --s5: #db2777; --mark: #ea580c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e5e7eb; --dim: #94a3b8; --paper: #0f172a; --card: #1e293b; --line: #334155; --pale: #64748b; --bad: #fca5a5;
    --good: #4ade80; --late: #facc15; --refused: #d8b4fe; --aside: #67e8f9;
    --s0: #60a5fa; --s1: #4ade80; --s2: #c084fc; --s3: #22d3ee; --s4: #facc15; --s5: #f472b6; --mark: #fb923c;
  }
}
body { color: var(--ink); background: var(--paper); }
.dim, figcaption { color: var(--dim); }
.tiles div { background: var(--card); }
th, td { border-color: var(--line); white-space: nowrap; }
th { font-weight: 600; }
.text { text-align: left; }
td.long { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.long:not(:empty) { min-width: 14rem; }
[hidden] { display: none !important; }
.bad, .failed { color: var(--bad); }
.answered { color: var(--good); } .late { color: var(--late); } .refused { color: var(--refused); }
.aside { color: var(--aside); } .absent { color: var(--dim); }
.word { font-weight: 600; }
.bar { display: flex; align-items: center; gap: 0.75rem; margin: 1rem 0 0; }
.bar progress { flex: 1; height: 0.75rem; accent-color: var(--s0); }
button {
  font: inherit; font-size: 0.9rem; color: var(--ink); background: var(--card); border: 1px solid var(--dim);
  border-radius: 0.5rem; padding: 0.2rem 0.8rem;
}
:focus-visible { outline: 3px solid var(--s0); outline-offset: 2px; }
summary { cursor: pointer; font-size: 1.2rem; font-weight: 600; margin: 2.5rem 0 0.5rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2rem; }
.charts > * { min-width: 0; }
svg { display: block; }
svg text { fill: var(--dim); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); }
svg .mark { stroke: var(--mark); stroke-dasharray: 1 3; }
svg path { fill: none; stroke-width: 2; }
.pale { stroke: var(--pale); fill: var(--pale); }
.s0 { stroke: var(--s0); fill: var(--s0); } .s1 { stroke: var(--s1); fill: var(--s1); }
.s2 { stroke: var(--s2); fill: var(--s2); } .s3 { stroke: var(--s3); fill: var(--s3); }
.s4 { stroke: var(--s4); fill: var(--s4); } .s5 { stroke: var(--s5); fill: var(--s5); }
svg path.pale, svg path[class^="s"] { fill: none; }
.key { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 0.9rem; color: var(--dim); }
.key span { display: flex; align-items: center; gap: 0.4rem; }
"""


def page() -> str:
    """One HTML page that asks its own server for run.json, and nobody for anything else."""
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>fedprune watch</title>'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    return f"{head}<style>{STYLE}{_STYLE}</style>\n{_BODY}<script>{SCRIPT}</script>\n</html>\n"


_BODY = """
<header>
  <h1 id="name">fedprune</h1>
  <p class="dim" id="subtitle"></p>
  <div class="bar">
    <progress id="progress" max="1" value="0" aria-label="rounds done"></progress>
    <span id="round"></span>
    <button id="pause" type="button" aria-pressed="false">Pause</button>
  </div>
  <p><span id="said" role="status">Loading.</span> <span class="dim" id="age"></span></p>
  <p class="bad" id="trouble" role="alert" hidden></p>
  <noscript><p class="bad">This page needs JavaScript; /metrics and /run.json do not.</p></noscript>
</header>
<main>
  <div class="tiles" id="tiles"></div>
  <section id="parts-section" hidden>
    <h2>Parts of the model</h2>
    <div class="wide" tabindex="0" role="region" aria-label="Parts of the model"><table id="parts"></table></div>
  </section>
  <div class="charts">
    <section><h2 id="judged">Accuracy by round, %</h2><figure id="accuracy"></figure></section>
    <section><h2>Loss by round</h2><figure id="loss"></figure></section>
    <section><h2>KB by round, all devices</h2><figure id="bytes"></figure></section>
    <section><h2>Seconds by round</h2><figure id="seconds"></figure></section>
  </div>
  <section id="layers-section" hidden>
    <h2>Density by layer, %</h2>
    <figure id="layers"></figure>
    <p class="dim">After the last complete round. Layers that are not shown are dense.</p>
  </section>
  <section>
    <h2>Devices</h2>
    <p id="words"></p>
    <div class="wide" tabindex="0" role="region" aria-label="Devices"><table id="devices"></table></div>
    <p class="dim" id="unknown" hidden>
      This run's lines do not say who was asked: who failed, refused or does worst is known, of the others how many
      answered.
    </p>
    <div id="strangers-section" hidden>
      <h3>Nodes that are none of the devices</h3>
      <ul id="strangers"></ul>
    </div>
  </section>
  <details>
    <summary>Every round</summary>
    <div class="wide" tabindex="0" role="region" aria-label="Every round"><table id="rounds"></table></div>
  </details>
</main>
"""
