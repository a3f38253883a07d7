"""What an export writes: names in cards and C are plain text, and nothing lands outside the folder."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from c99_files import Draft
from c99_nets import chain
from c99_runs import compiler
from markdown_it import MarkdownIt

from fedprune.export.chip import foreign
from fedprune.export.chip.write import c_files, write_c
from fedprune.files import write_atomically
from fedprune.runs.tier_outcome import _page

HOSTILE = (
    "a|b", "# no heading", "<script>x</script>", "[here](http://x)", "`x`", "line\nbreak", "*/ \" \\ ??/ '", "https://x.y",
    "_a_ **b**", "1. one", "- item", "&lt;", "a\\", "snake_case_name", "ñ", "+", "~~~",
)  # fmt: skip


def parsed(page: str) -> tuple[list[str], set[str], list[str]]:
    """Return a page's kinds of blocks, its kinds of inline marks, and its texts."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    inline = [token.children or [] for token in tokens if token.type == "inline"]
    kinds = {child.type for children in inline for child in children}
    return [token.type for token in tokens], kinds, ["".join(child.content for child in each) for each in inline]


def test_names_in_a_tiers_card_are_plain_text() -> None:
    facts = {
        "name": "<b>|`\n# x", "worst_device": {"device": HOSTILE[0], "accuracy": 0.5}, "accuracy_int8": 0.5,
        "accuracy_float": 0.5, "density": 0.1, "flash_bytes": 1, "flash_bytes_allowed": 0, "arena_bytes": 1,
        "sram_bytes_allowed": 0, "macs": 1, "fits": True, "train_memory_bytes_predicted": 0,
        "accuracy_by_device": dict.fromkeys(HOSTILE, 0.5), "c99_arena_bytes": 3, "c99_constants_bytes": 1000,
        "c99_flash_bytes_predicted": 2000,
    }  # fmt: skip
    _, kinds, texts = parsed(_page(facts))
    assert kinds == {"text"}
    assert texts[0] == "<b>|` # x"
    assert "1,000 bytes of flash for weights and tables, about 2,000 with code; 3 of RAM" in texts
    assert f"{HOSTILE[0]}: 50.00 %" in texts
    assert [" ".join(name.split()) for name in HOSTILE if " ".join(name.split()) not in texts] == []


def test_names_in_a_card_are_plain_text() -> None:
    draft = Draft((1, 1, 1, len(HOSTILE)))
    model = draft.file(draft.unary("RELU", draft.input, draft.grid(draft.input)))
    card = {
        "labels": HOSTILE,
        "mean": [0.0],
        "std": [1.0],
        "arena_bytes": 1,
        **{f"note {name}": name for name in HOSTILE},
    }
    card |= {"size_bytes": dict.fromkeys(HOSTILE, 1), "name": "<b>|`\n# x"}
    files = c_files(model, card)
    blocks, kinds, texts = parsed(files["model_card.md"].decode())
    assert kinds == {"text", "code_inline"}  # the latter is the model's sum
    assert not {"html_block", "fence", "code_block", "bullet_list_open"} & set(blocks)
    assert (blocks.count("heading_open"), blocks.count("table_open"), texts[0]) == (3, 2, "<b>|` # x")
    assert texts.count(hashlib.sha256(model).hexdigest()) == 1
    for name in HOSTILE:
        assert texts.count(" ".join(name.split())) >= 3, name
    assert json.loads(files["model_card.json"])["labels"] == list(HOSTILE)


def test_names_in_c_sources_are_strings(tmp_path: Path) -> None:
    draft = Draft((1, 1, 1, len(HOSTILE)))
    model = draft.file(draft.unary("RELU", draft.input, draft.grid(draft.input)))
    card = {"labels": HOSTILE, "mean": [0.0], "std": [1.0], "arena_bytes": 1, "name": '*/ #error "'}
    write_c(model, tmp_path, card)
    (tmp_path / "labels.c").write_text(
        '#include <stdio.h>\n#include "model_data.h"\n#include "model.h"\n#undef MODEL_OUTPUT_COUNT\n'
        "static const char *const again[] = MODEL_LABELS;\n"
        f"int main(void) {{ for (int i = 0; i < {len(HOSTILE)}; ++i)"
        ' printf("%s%c%s%c", model_labels[i], 0, again[i], 0); return 0; }\n'
    )
    sources = [str(tmp_path / name) for name in ("labels.c", "model_data.c", "model.c")]
    subprocess.run([compiler(), "-std=c99", "-trigraphs", "-w", *sources, "-o", str(tmp_path / "labels")], check=True)
    said = subprocess.run([tmp_path / "labels"], check=True, capture_output=True).stdout.decode()
    assert said.split("\0")[:-1] == [name for name in HOSTILE for _ in range(2)]


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.write_text("kept")
    folder.mkdir()
    for name in ("model.c", "model.tflite", "model_card.md", "main.c", "Makefile"):
        (folder / name).symlink_to(outside)
    foreign.write(chain(3, 2), folder, "linked")
    assert outside.read_text() == "kept"
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")  # a folder that the user names may be one
    foreign.write(chain(3, 2), folder, "linked")
    assert (tmp_path / "elsewhere" / "model.c").is_file()


def test_a_draft_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / "outside").write_text("kept")
    (tmp_path / ".file.7").symlink_to(tmp_path / "outside")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "kept"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new", "outside": b"kept"}
