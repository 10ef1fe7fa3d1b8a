"""Kubeflow tasks in containers on this machine: kfp's DockerRunner, with exit codes that can be relied on.

kfp 2.17.0 has Docker remove each container by itself and asks for its exit code afterwards. When the container is gone
by then, it takes a failed task for a success. Here a container is removed once its exit code is known.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from model.threads import without_ours
from pipelines.local.tasks import Tasks, taken_over

if TYPE_CHECKING:
    from docker import DockerClient  # type: ignore[import-untyped]

PATIENCE = 600.0  # seconds until the engine must have answered: one that builds or removes large images takes minutes
ENGINE_FAILED = 125  # what `docker run` exits with when the fault is Docker's own
CODE = ("/app", "/opt/venv")  # where the image has it
HANDED_ON = ("AWS_", "GOMP_", "MLFLOW_", "OMP_", "TRAIN_")  # variables that steps read


@dataclass(frozen=True)
class Image:
    """An image that the engine holds: its id, and the commit of the code in it (empty where its label is missing)."""

    name: str
    id: str
    commit: str


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine that containers see, by default under the same path."""

    path: Path
    writable: bool = False
    target: str = ""


class Containers(Tasks):
    """The containers of one run."""

    def __init__(self, last_words: Path) -> None:
        super().__init__(last_words)
        self._running: set[str] = set()

    def run(self, client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        """Run a command in a container, print what it says as it says it, and return its exit code.

        In the place of ``kfp.local.docker_task_handler.run_docker_container``; the image is one that the engine holds.
        """
        from docker.errors import DockerException  # type: ignore[import-untyped]
        from requests import RequestException  # type: ignore[import-untyped]

        try:
            code = self._run(client, image, command, volumes, **options)
        except (DockerException, RequestException) as error:
            self.tell(f"Docker: {getattr(error, 'explanation', None) or error}; see to it, then run again")
            return ENGINE_FAILED
        return self.judged(code, "container")

    def _run(
        self, client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
    ) -> int:
        if self.ended:
            return ENGINE_FAILED
        client.api.timeout = PATIENCE
        container = client.containers.create(image=image, command=command, volumes=volumes, **options)
        try:
            self._running.add(container.id)
            container.start()
            if self.ended:  # in the meantime
                container.kill()
            # Whole lines, since kfp indents whatever is printed at once; a character may come in two pieces.
            text, begun, seen = codecs.getincrementaldecoder("utf-8")(errors="replace"), "", 0
            for piece in container.logs(stream=True):
                seen += len(piece)
                *lines, begun = (begun + text.decode(piece)).split("\n")
                for line in lines:
                    print(line, flush=True)
            code = int(container.wait()["StatusCode"])
            # The stream may end before the engine has written the last words down; once it has waited, it has.
            begun += text.decode(container.logs()[seen:], final=True)
            if begun:
                print(begun.removesuffix("\n"), flush=True)
            return code
        finally:
            self._running.discard(container.id)
            container.remove(force=True)

    def end(self) -> None:
        """Kill what runs and start nothing more."""
        from docker.errors import APIError

        self.ended = True
        with connected() as client:
            for name in list(self._running):
                try:
                    client.api.kill(name)
                except APIError as error:
                    if error.status_code not in (404, 409):  # gone, or not running
                        raise


@contextmanager
def connected() -> Iterator[DockerClient]:
    """Connect to the engine that Docker's own command would take (DOCKER_HOST, else the local socket).

    Raises:
        UserError: none answers.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
    except DockerException as error:
        raise UserError(f"no Docker engine answers ({error}); start one, or let DOCKER_HOST name one") from error
    try:
        yield client
    finally:
        client.close()


def find_image(name: str) -> Image:
    """Return the image ``name``.

    Raises:
        UserError: no engine answers, or it does not hold the image.
    """
    from docker.errors import DockerException, NotFound

    with connected() as client:
        try:
            found = client.images.get(name)
        except NotFound as error:
            raise UserError(
                f"image {name}: not on this machine; `make image` builds it, `docker pull` fetches one"
            ) from error
        except DockerException as error:
            raise UserError(f"image {name}: {error}; choose another --image") from error
    return Image(name, str(found.id), str(found.labels.get("org.opencontainers.image.revision") or ""))


@contextmanager
def reliable(last_words: Path) -> Iterator[Containers]:
    """Let kfp's DockerRunner use :class:`Containers` inside the block; an interrupt ends what runs in them.

    Args:
        last_words: a file that gets a line for what no task can say itself: Docker failed, or killed it.

    Raises:
        UserError: this is another kfp than the one whose function is replaced.
    """
    from kfp.local import docker_task_handler

    containers = Containers(last_words)
    with taken_over(docker_task_handler, "run_docker_container", containers.run, containers):
        yield containers


def options(owner: tuple[int, int], mounts: Sequence[Mount], network: bool, **environment: str) -> dict[str, Any]:
    """Return how DockerRunner runs each container: no rights, and nothing to write but what is named and ``/tmp``.

    Args:
        owner: as which user and group; what a container writes is theirs.
        mounts: what a container sees besides its image.
        network: whether it has this machine's network, or none.
        **environment: variables, besides those of this process that steps read.

    Raises:
        UserError: a mount would hide the image's own code.
    """
    from docker.types import Mount as Bind  # type: ignore[import-untyped]

    for mount in mounts:
        if any(Path(own).is_relative_to(mount.target or mount.path) for own in CODE):
            raise UserError(f"{mount.path}: would hide the image's own {' and '.join(CODE)}; choose another folder")
    handed_on = {name: value for name, value in without_ours(dict(os.environ)).items() if name.startswith(HANDED_ON)}
    binds = [
        Bind(mount.target or str(mount.path), str(mount.path), type="bind", read_only=not mount.writable)
        for mount in mounts
    ]
    return {
        "user": ":".join(map(str, owner)),
        "mounts": binds,
        "environment": handed_on | environment,
        "network_mode": "host" if network else "none",
        "read_only": True,
        "tmpfs": {"/tmp": ""},  # noqa: S108
        # Python finds modules in the current folder first, and the image's code is what is run.
        "working_dir": "/tmp",  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
    }
