"""Rehearse the image where there is no container engine: the Dockerfile's steps in a plain folder.

    python scripts/container/rehearse.py [--build-arg TORCH=cpu]    (2 to 5 minutes, 6 GB)
    python scripts/container/rehearse.py --packages-of .venv        (a minute, with what it has)

This is no container: the base image is this machine's Python of the same version, and a path of
the image lies below the folder. Then the commands of docs/container.md are run; as root, each as
the user it would have in the image, who may write nothing but home and volume. Fails when a step or
a command does, or when a command left a file anywhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/container.md"
PYPI = "https://pypi.org/simple"
MACHINE = re.compile(r"PIP_|SSL_|REQUESTS_|.*_proxy$", re.IGNORECASE)  # how PyPI is reached here
OUTSIDE = ("/proc", "/sys")
NOBODY = "65534:65534"


class Step(NamedTuple):
    """An instruction of a Dockerfile and what follows it, on one line."""

    name: str
    words: str


def steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile in their order, without comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = re.sub(r"\\\n\s*", "", kept).splitlines()
    return [Step(*line.split(maxsplit=1)) for line in whole if line.strip()]


def commands(page: str) -> list[str]:
    """The lines of a page's blocks of bash."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


class Image:
    """What the steps made: a folder, and what a container of it would begin with."""

    def __init__(self, folder: Path, given: dict[str, str], packages_of: Path | None) -> None:
        self.folder, self.given, self.packages_of = folder, given, packages_of
        self.arguments: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.entrypoint: list[str] = []
        self.place, self.user, self.volume = Path("/"), "0:0", Path("/")
        self.switches = False  # starts programs as other users

    def path(self, inside: str | Path) -> Path:
        """Where a path of the image lies here."""
        return self.folder / str(inside).lstrip("/")

    def variables(self) -> dict[str, str]:
        """PATH, how many threads where that is said here, and what ENV set, with paths of here."""
        path = f"{self.path('/usr/local/bin')}:/usr/local/bin:/usr/bin:/bin"
        inside = {k: str(self.path(v)) if v[:1] == "/" else v for k, v in self.environment.items()}
        threads = {k: v for k, v in os.environ.items() if k == "OMP_NUM_THREADS"}
        return {"PATH": path, "LANG": "C.UTF-8", **threads, **inside}

    def as_user(self, user: str) -> dict[str, Any]:
        """How subprocess starts a program as that user, where one may."""
        return of_user(user) if self.switches else {}

    def take(self, step: Step) -> None:
        """Do what an instruction says.

        Raises:
            SystemExit: when it is none of those that are known here.
            subprocess.CalledProcessError: when it fails.
        """
        words = shlex.split(step.words) if step.name != "RUN" else []
        if step.name == "FROM":
            version = re.match(r"python:(\d+\.\d+)-slim$", step.words)
            assert version, step
            program, self.switches = python(version[1])
            if not self.switches:
                print("All is done as one user, so nobody is kept from writing anywhere.")
            run([program, "-m", "venv", self.path("/usr/local")])
            if self.packages_of:
                site = f"lib/python{version[1]}/site-packages"
                others = (self.packages_of / site).resolve(strict=True)
                (self.path("/usr/local") / site / "others.pth").write_text(f"{others}\n")
        elif step.name == "ARG":
            name, _, default = step.words.partition("=")
            self.arguments[name] = self.given.get(name, default)
        elif step.name == "ENV":
            self.environment |= dict(word.split("=", 1) for word in words)
        elif step.name == "WORKDIR":
            self.place = Path(step.words)
            self.path(self.place).mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            *sources, target = words
            for source in sources:
                copy(ROOT / source, self.path(target), folder=target.endswith("/"))
        elif step.name == "RUN":
            line = re.sub(r"^(--mount=\S+\s+)+", "", step.words)
            here = {k: v for k, v in os.environ.items() if MACHINE.match(k) or k == "HOME"}
            build = {"PIP_QUIET": "1"} | here | self.arguments | self.variables()
            run(["/bin/sh", "-c", line], cwd=self.path(self.place), env=build)
        elif step.name == "VOLUME":
            self.volume = Path(step.words)
        elif step.name == "USER":
            self.user = step.words
        elif step.name == "ENTRYPOINT":
            self.entrypoint = json.loads(step.words)
        elif step.name != "LABEL":
            raise SystemExit(f"the Dockerfile has an instruction that is not known here: {step}")


def run(command: list[str | Path], **how: Any) -> None:
    subprocess.run([str(word) for word in command], check=True, **how)


def copy(source: Path, target: Path, folder: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target = target / source.name if folder else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def python(version: str) -> tuple[str, bool]:
    """This machine's Python of that version, and whether programs of others can be started with it.

    Raises:
        SystemExit: when there is none.
    """
    folders = ("/usr/local/bin", "/usr/bin", *os.environ["PATH"].split(":"))
    found = [p for folder in folders if os.path.exists(p := f"{folder}/python{version}")]
    check = ("-c", "import ensurepip, venv")
    for user in [NOBODY, None] if os.geteuid() == 0 else [None]:
        for program in found:
            if succeeds([program, *check], user):
                return program, user is not None
    raise SystemExit(f"there is no python{version} with venv")


def succeeds(command: list[str], user: str | None) -> bool:
    how = of_user(user) if user else {}
    try:
        return subprocess.run(command, capture_output=True, check=False, **how).returncode == 0
    except OSError:  # it cannot even be looked at
        return False


def of_user(user: str) -> dict[str, Any]:
    """How subprocess starts a program as that user."""
    number, group = (int(word) for word in user.split(":"))
    return {"user": number, "group": group, "extra_groups": []}


class Docker:
    """Runs lines that begin with `docker run`, as the folder of an image allows."""

    def __init__(self, image: Image, folder: Path) -> None:
        self.image, self.folder = image, folder
        self.host, self.volumes, self.homes = (folder / n for n in ("host", "volumes", "homes"))
        self.caller = f"{free_number()}:{free_number()}"
        for place in (self.host, self.volumes, self.homes):
            place.mkdir()
        if image.switches:
            os.chown(self.host, *(int(word) for word in self.caller.split(":")))

    def type(self, line: str) -> None:
        """Run a line of the page as the user who would type it.

        Raises:
            subprocess.CalledProcessError: when it fails.
        """
        print(f"\n$ {line}", flush=True)
        if line.startswith("docker run"):
            number, group = self.caller.split(":")
            line = line.replace("$(id -u)", number).replace("$(id -g)", group)
            self.run(shlex.split(line.replace("$PWD", str(self.host)), comments=True)[2:])
        elif line.startswith("docker"):
            print("(the steps above)")
        else:
            run(["bash", "-c", line], cwd=self.host, **self.image.as_user(self.caller))

    def run(self, words: list[str]) -> None:
        parser = argparse.ArgumentParser(prog="docker run")
        parser.add_argument("--rm", action="store_true")
        parser.add_argument("--user", default=self.image.user)
        parser.add_argument("--gpus")
        parser.add_argument("-v", default="")
        parser.add_argument("image", choices=["lrexp"])
        parser.add_argument("rest", nargs=argparse.REMAINDER)
        asked = parser.parse_args(words)
        if asked.gpus and not shutil.which("nvidia-smi"):
            print("(not rehearsed: there is no GPU)")
            return
        source, _, target = asked.v.partition(":")
        assert target in ("", str(self.image.volume)), asked.v
        mounted = Path(source) if source[:1] == "/" else self.volumes / (source or "anonymous")
        entry = str(self.image.path("/usr/local/bin") / self.image.entrypoint[0])
        home = Path(tempfile.mkdtemp(dir=self.homes)) / "home"  # a container begins with its own
        at_home = self.image.path(self.image.environment["HOME"])
        with self.mounted(home, at_home), self.mounted(mounted, self.image.path(self.image.volume)):
            run(
                [entry, *self.image.entrypoint[1:], *asked.rest],
                cwd=self.image.path(self.image.place),
                env=self.image.variables(),
                **self.image.as_user(asked.user),
            )

    @contextmanager
    def mounted(self, volume: Path, place: Path) -> Iterator[None]:
        """A folder of the host or a volume, new where it is not there, in its place in the image.

        A link would not do: the program would see where it leads.
        """
        if not volume.exists():
            volume.mkdir()  # of root where it is the host's, as Docker makes it
            if not volume.is_relative_to(self.host):
                shutil.copymode(place, volume)
        empty = place.with_name("empty")
        place.rename(empty)
        volume.rename(place)
        try:
            yield
        finally:
            place.rename(volume)
            empty.rename(place)

    def elsewhere(self, since: float) -> list[str]:
        """Files outside home and volumes that the users of the image wrote or left."""
        several = self.image.switches
        allowed = (self.host, self.volumes, self.homes)
        where = ["/", "/dev/shm"] if several else [str(self.image.folder)]
        skip = [word for p in (*allowed, *OUTSIDE) for word in ("-path", str(p), "-prune", "-o")]
        one, other = (user.split(":")[0] for user in (self.caller, self.image.user))
        whose = ["(", "-uid", one, "-o", "-uid", other, ")"] if several else ["-type", "f"]
        found = subprocess.run(
            ["find", *where, "-xdev", *skip, *whose, "-newerct", f"@{since}", "-print"],
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.splitlines()


def free_number() -> int:
    """A user's number that nobody has here."""
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    return next(number for number in range(20_000, 60_000) if number not in taken)


def given(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, _, value = word.partition("=")
        yield name, value


def reachable(address: str) -> bool:
    try:
        with urlopen(f"{address}/torch/", timeout=20):
            return True
    except OSError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--packages-of",
        type=Path,
        metavar="VENV",
        help="its packages count as those of the base image: what is missing there is installed",
    )
    options = parser.parse_args()
    asked = dict(given(options.build_arg))
    written = steps((ROOT / "Dockerfile").read_text())
    print("This is no container: the Dockerfile's steps in a plain folder of this machine.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder goes
    index = next(s.words for s in written if s.words.startswith("CPU_INDEX=")).partition("=")[2]
    if asked.get("TORCH") == "cpu" and not reachable(asked.setdefault("CPU_INDEX", index)):
        print(f"{index} cannot be reached: PyPI's torch, with CUDA, takes its place.")
        asked["CPU_INDEX"] = PYPI
    with tempfile.TemporaryDirectory(prefix="lrexp-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.umask(0o022)
        image = Image(folder / "image", asked, options.packages_of)
        for step in written:
            print(f"\n{step.name} {step.words}", flush=True)
            image.take(step)
        began = time.time()
        docker = Docker(image, folder)
        for line in commands(PAGE.read_text()):
            docker.type(line)
        print("\nwritten:")
        for place in (docker.host, docker.volumes, docker.homes):
            files = [path for path in place.rglob("*") if path.is_file()]
            print(f"  {len(files):4d} files in {place.relative_to(folder)}")
        if left := docker.elsewhere(began):
            sys.exit("and outside of volume and home, where it must not be:\n" + "\n".join(left))
        print("     0 outside of volume and home")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: it ended with {error.returncode}: {shlex.join(error.cmd)}")
