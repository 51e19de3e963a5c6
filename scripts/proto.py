"""Generate raftlog/pb from proto/ (`--check`: say whether it is up to date, and change nothing)."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO, OUT = ROOT / "proto", ROOT / "raftlog" / "pb"


def generate(folder: Path) -> None:
    """Run protoc over every .proto file; Python, type stubs and gRPC stubs go below ``folder``."""
    files = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    public = [name for name in files if "/internal/" not in name]
    include = [f"-I{PROTO}", f"-I{resources.files('grpc_tools') / '_proto'}", f"-I{_googleapis()}"]
    scripts = Path(sys.executable).parent
    stubs = [f"--plugin=protoc-gen-{name}={scripts}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    if protoc.main(["protoc", *include, *stubs, f"--python_out={folder}", f"--mypy_out=quiet:{folder}", *files]):
        raise SystemExit("protoc failed on the messages")
    if protoc.main(["protoc", *include, *stubs, f"--grpc_python_out={folder}", f"--mypy_grpc_out=quiet:{folder}", *public]):
        raise SystemExit("protoc failed on the services")
    for path in folder.rglob("*"):
        if path.suffix in {".py", ".pyi"}:
            _root_imports(path)
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        (path / "__init__.py").write_text('"""Generated from proto/ by `make proto`."""\n')


def _googleapis() -> Path:
    import google.rpc

    return Path(next(iter(google.rpc.__path__))).parent.parent


def _root_imports(path: Path) -> None:
    """protoc writes imports as if proto/ were on the path; ours live below raftlog.pb."""
    text = path.read_text()
    text = text.replace("from raftlog.v1", "from raftlog.pb.raftlog.v1").replace(
        "from raftlog.internal", "from raftlog.pb.raftlog.internal"
    )
    text = text.replace("import raftlog.v1.", "import raftlog.pb.raftlog.v1.").replace(
        "import raftlog.internal.", "import raftlog.pb.raftlog.internal."
    )
    path.write_text(text)


def _differences(compare: filecmp.dircmp[str]) -> list[str]:
    names = [
        f"{compare.left}/{name}"
        for name in (*compare.left_only, *compare.right_only, *compare.diff_files)
        if name != "__pycache__"
    ]
    return names + [name for sub in compare.subdirs.values() for name in _differences(sub)]


def main() -> int:
    """Write the generated code, or with ``--check`` compare it with what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        if check:
            stale = _differences(filecmp.dircmp(temporary, OUT))
            print("\n".join(f"not up to date: {name} (run `make proto`)" for name in stale) or "generated code is up to date")
            return 1 if stale else 0
        shutil.rmtree(OUT, ignore_errors=True)
        shutil.copytree(temporary, OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
