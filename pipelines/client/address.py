"""Address and credentials of Kubeflow Pipelines: from options, from the pod, or from a kubeconfig."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]

from core.errors import UserError

POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # the mount path of Kubeflow's PodDefault
POD_TOKEN_VARIABLE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - the name is kfp's
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
IN_CLUSTER = "http://ml-pipeline.{}.svc.cluster.local:8888"
THROUGH_KUBERNETES = "/api/v1/namespaces/{}/services/ml-pipeline:http/proxy"


@dataclass(frozen=True)
class Address:
    """Connection options of a Kubeflow Pipelines installation; None means detect it.

    Args:
        host: URL of the Pipelines API or of its web page.
        namespace: the user's profile namespace, for a multi-user installation.
        token: a bearer token.
        token_file: a file with a bearer token; read before every request, so that a renewed token is used.
        kube_context: context of the kubeconfig; None is the current context.
        system_namespace: the namespace in which Kubeflow Pipelines is installed.
        ca_file: CA certificates that verify the host.
    """

    host: str | None = None
    namespace: str | None = None
    token: str | None = None
    token_file: Path | None = None
    kube_context: str | None = None
    system_namespace: str = "kubeflow"
    ca_file: Path | None = None

    def configuration(self) -> Any:
        """Return kfp's client configuration; raises UserError if an option is missing or wrong."""
        configuration = kfp_server_api.Configuration()
        if self.ca_file:
            if not self.ca_file.is_file():
                raise UserError(f"{self.ca_file}: not found; --ca-file takes a file of certificates")
            configuration.ssl_ca_cert = str(self.ca_file)
        in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
        if self.host:
            configuration.host = self.host.rstrip("/") if "://" in self.host else f"https://{self.host.rstrip('/')}"
        elif in_pod:
            configuration.host = IN_CLUSTER.format(self.system_namespace)
        else:
            if self.token or self.token_file:
                raise UserError("a token belongs to one host: pass --host (or KF_PIPELINES_ENDPOINT) with it")
            self._through_kubernetes(configuration)
            return configuration
        self._authorise(configuration)
        return configuration

    def kubernetes(self) -> Any:
        """Return a client of the Kubernetes API of Kubeflow's cluster, or None if none is configured.

        A host does not identify the cluster: outside a pod, ``host`` also needs ``kube_context``.
        """
        from kubernetes import client, config  # type: ignore[import-untyped]

        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and self.kube_context is None:
                settings = client.Configuration()
                config.load_incluster_config(client_configuration=settings)
                return client.ApiClient(settings)
            if self.host is None or self.kube_context is not None:
                return config.new_client_from_config(os.environ.get("KUBECONFIG") or None, self.kube_context)
        except (config.ConfigException, OSError):
            return None
        return None

    def user_namespace(self) -> str | None:
        """Return the option ``namespace``, or the pod's namespace if it is None."""
        if self.namespace is None and POD_NAMESPACE.exists():
            return POD_NAMESPACE.read_text().strip()
        return self.namespace

    def _through_kubernetes(self, configuration: Any) -> None:
        """Connect through the proxy of the Kubernetes API server, with the user's kubeconfig."""
        from kubernetes import config

        try:
            # Pass it, because the library reads its default at import.
            file = os.environ.get("KUBECONFIG") or None
            config.load_kube_config(config_file=file, client_configuration=configuration, context=self.kube_context)
        except config.ConfigException as error:
            raise UserError(
                f"which Kubeflow? pass --host (or KF_PIPELINES_ENDPOINT); the kubeconfig is of no use ({error})"
            ) from None
        host = configuration.host.rstrip("/") + THROUGH_KUBERNETES.format(self.system_namespace)
        renew = configuration.refresh_api_key_hook

        def renewed(those: Any) -> None:
            # The Kubernetes client's hook renews an expired token and resets the host.
            if renew is not None:
                renew(those)
            those.host, those.refresh_api_key_hook = host, renewed

        configuration.host, configuration.refresh_api_key_hook = host, renewed

    def _authorise(self, configuration: Any) -> None:
        if self.token and self.token_file:
            raise UserError("--token and --token-file: say one of them")
        pod_token = Path(os.environ.get(POD_TOKEN_VARIABLE) or POD_TOKEN)
        path = self.token_file or (pod_token if not self.token and pod_token.exists() else None)
        if path:
            read = _reader(path)
            read(configuration)
            configuration.refresh_api_key_hook = read
        elif self.token:
            configuration.api_key["authorization"] = self.token.strip()
        else:
            return
        configuration.api_key_prefix["authorization"] = "Bearer"


def _reader(path: Path) -> Callable[[Any], None]:
    def read(configuration: Any) -> None:
        try:
            token = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: the token cannot be read ({error})") from None
        if not token:
            raise UserError(f"{path}: is empty; put the token into it")
        configuration.api_key["authorization"] = token

    return read
