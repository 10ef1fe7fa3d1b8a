"""Kubeflow tasks in local containers: kfp's DockerRunner with reliable exit codes.

kfp 2.17.0 lets Docker remove each container automatically and then asks for its exit code. If the container is already
removed, kfp reports a failed task as a success. Here a container is removed after its exit code is known.
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
from pipelines.local.view import TaskView, View

if TYPE_CHECKING:
    from docker import DockerClient  # type: ignore[import-untyped]

PATIENCE = 600.0  # API timeout in seconds: an engine that builds or removes large images may respond after minutes
ENGINE_FAILED = 125  # exit code of `docker run` for an error of Docker itself
CODE = ("/app", "/opt/venv")  # paths of the code in the image
HANDED_ON = ("AWS_", "GOMP_", "MLFLOW_", "OMP_", "TRAIN_")  # prefixes of environment variables that steps read


@dataclass(frozen=True)
class Image:
    """A local image: its id, and the commit of its code (empty if the label is missing)."""

    name: str
    id: str
    commit: str


@dataclass(frozen=True)
class Mount:
    """A bind mount of a file or folder; an empty ``target`` means the same path in the container."""

    path: Path
    writable: bool = False
    target: str = ""


class Containers(Tasks):
    """The containers of one run."""

    def __init__(self, last_words: Path, view: View) -> None:
        super().__init__(last_words, view)
        self._running: set[str] = set()

    def run(self, client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        """Run a command in a container, stream its output, and return its exit code.

        Replaces ``kfp.local.docker_task_handler.run_docker_container``. The image must be local.
        """
        from docker.errors import DockerException  # type: ignore[import-untyped]
        from requests import RequestException  # type: ignore[import-untyped]

        shown = self.view.task(command)
        try:
            code = self._run(client, shown, image=image, command=command, volumes=volumes, **options)
        except (DockerException, RequestException) as error:
            why = f"Docker: {getattr(error, 'explanation', None) or error}; see to it, then run again"
            shown.line(f"error: {why}")
            shown.end(ENGINE_FAILED)
            self.tell(why)
            return ENGINE_FAILED
        shown.end(code)
        return self.judged(code, "container")

    def _run(self, client: DockerClient, shown: TaskView, **options: Any) -> int:
        if self.ended:
            return ENGINE_FAILED
        client.api.timeout = PATIENCE
        container = client.containers.create(**options)
        try:
            self._running.add(container.id)
            container.start()
            if self.ended:  # in the meantime
                container.kill()
            # Print whole lines, since kfp indents each print; a UTF-8 character may be split between two chunks.
            text, begun, seen = codecs.getincrementaldecoder("utf-8")(errors="replace"), "", 0
            for piece in container.logs(stream=True):
                seen += len(piece)
                *lines, begun = (begun + text.decode(piece)).split("\n")
                for line in lines:
                    shown.line(line)
            code = int(container.wait()["StatusCode"])
            # The stream may miss the last output; after wait() the log is complete.
            begun += text.decode(container.logs()[seen:], final=True)
            if begun:
                shown.line(begun.removesuffix("\n"))
            return code
        finally:
            self._running.discard(container.id)
            container.remove(force=True)

    def end(self) -> None:
        """Kill the running containers and start no more."""
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
    """Connect to the Docker engine at DOCKER_HOST, else at the local socket.

    Raises:
        UserError: no engine responds.
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
    """Return the local image ``name``.

    Raises:
        UserError: no engine responds, or it does not have the image.
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
def reliable(last_words: Path, view: View) -> Iterator[Containers]:
    """Make kfp's DockerRunner use :class:`Containers` inside the block; an interrupt kills the running containers.

    Args:
        last_words: a file for errors that a task cannot report itself: Docker failed, or the task was killed.
        view: prints the tasks' progress.

    Raises:
        UserError: the installed kfp is not the patched version.
    """
    from kfp.local import docker_task_handler

    containers = Containers(last_words, view)
    with taken_over(docker_task_handler, "run_docker_container", containers.run, containers):
        yield containers


def options(owner: tuple[int, int], mounts: Sequence[Mount], network: bool, **environment: str) -> dict[str, Any]:
    """Return DockerRunner's container options: no capabilities, and a read-only root with a writable ``/tmp``.

    Args:
        owner: user and group id of the container's process.
        mounts: bind mounts.
        network: True uses the host's network, False none.
        **environment: variables, in addition to those of this process that steps read.

    Raises:
        UserError: a mount would hide the code in the image.
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
        # Python imports from the current folder first; the steps must import the image's code.
        "working_dir": "/tmp",  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
    }
