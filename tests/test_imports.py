"""What a device loads: neither torch before it trains, nor a converter, plots or a data framework."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_HEAVY = ("torch", "ai_edge_litert", "tflite_micro", "flatbuffers", "matplotlib", "pyarrow", "pandas", "sklearn", "PIL",
          "datasets", "flwr_datasets", "ray", "torch_pruning", "scipy")  # fmt: skip


def _loaded(statement: str) -> list[str]:
    code = f"{statement}\nimport sys\nprint(*[name for name in {_HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_device_starts_without_anything_heavy() -> None:
    assert _loaded("import clients.app") == []


def test_the_command_line_starts_without_anything_heavy() -> None:
    assert _loaded("import fedprune.cli.main") == []


def test_every_file_says_its_room_first_and_is_short() -> None:
    files = [
        path for folder in ("fedprune", "clients", "server", "simulations") for path in (_ROOT / folder).rglob("*.py")
    ]
    lengths = {path.relative_to(_ROOT): len(path.read_text().splitlines()) for path in files}
    assert {path: n for path, n in lengths.items() if n > 300} == {}
    assert sum(lengths.values()) / len(lengths) < 150
    assert [str(path) for path in files if not path.read_text().startswith('"""')] == []
