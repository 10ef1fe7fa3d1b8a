"""The size of a run in Kubernetes, against the recorded runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from core.params import check, read_params
from pipelines.cluster import Cluster, read_cluster
from pipelines.compile import compiled
from pipelines.size import Size, estimate, require_fit
from pipelines.tasks import cells_of

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = read_cluster(ROOT / "pipelines/cluster.yaml")
RECORDED = (Path(__file__).parent / "recorded_graph.yaml").read_text()  # the graph of the recorded runs
SCENARIOS = ["mixed", "montgomery-to-shenzhen", "shenzhen-to-montgomery"]
NETWORKS = ["defu_net", "unet", "unet_bn", "res_unet", "r2_unet", "att_r2_unet", "bcdu_net"]


def cells(count: int) -> list[str]:
    """Return so many cells with names of the usual length."""
    return [f"{NETWORKS[n % 7]}/{SCENARIOS[n % 3]}/seed-{n}" for n in range(count)]


def package(cluster: Cluster) -> str:
    return compiled(read_params(ROOT / "params.yaml"), cluster=cluster)


def test_it_says_what_was_recorded_of_three_cells() -> None:
    size = estimate(RECORDED, cells(3))
    # Recorded: 116 nodes of 1,095,737 bytes, three steps of which came from the cache and so hold less.
    assert 1_095_737 < size.nodes < 1_095_737 * 1.15
    # Recorded: 148,740 bytes compressed, 105,582 of the specification, 1,600 others.
    assert size.workflow == pytest.approx(148_740 + 105_582 + 1_600, rel=0.10)


def test_a_further_cell_is_as_large_as_recorded() -> None:
    # The nodes of one recorded cell are 186 KB; eighty copies of it, with other ids, compress to 16.6 KB each. Beside
    # them report and register took two artifacts a cell as arguments.
    few, many = estimate(RECORDED, cells(10)), estimate(RECORDED, cells(50))
    assert (many.nodes - few.nodes) / 40 == pytest.approx(186_800, rel=0.12)
    assert (many.workflow - few.workflow) / 40 == pytest.approx(16_600, rel=0.12)
    assert few.most == pytest.approx(48, abs=8)


def test_it_is_no_less_than_what_was_recorded_of_twelve_cells() -> None:
    # Recorded when 250 of its 278 nodes were there: 2,254 KB and 210 KB.
    size = estimate(RECORDED, cells(12))
    assert 2_254_000 < size.nodes < 2_254_000 * 278 / 250 * 1.25
    assert 210_000 + 105_582 < size.workflow < (210_000 + 105_582) * 1.5


@pytest.mark.full
def test_more_than_150_cells_fit_in_one_pod_each_and_more_than_before_in_two() -> None:
    before = estimate(RECORDED, cells(3)).most
    two = estimate(package(CLUSTER), cells(95))
    one = estimate(package(CLUSTER.model_copy(update={"one_pod_per_cell": True})), cells(150))
    assert two.fits
    assert two.most > 1.8 * before
    assert one.fits
    assert one.most >= 150


def test_what_does_not_fit_is_refused_with_the_way_to_split_it() -> None:
    text = package(CLUSTER)
    with pytest.raises(UserError, match=r"^200 cells do not fit into one run.* fewer networks, scenarios or seeds"):
        require_fit(text, cells(200))
    assert str(require_fit(text, cells(3))).startswith("3 cells: about ")


def test_seven_networks_three_scenarios_and_five_seeds_are_one_run() -> None:
    values = read_params(ROOT / "params.yaml").model_dump(by_alias=True)
    values["matrix"] = {"networks": NETWORKS, "scenarios": SCENARIOS, "seeds": [0, 1, 2, 3, 4]}
    params = check(values, "here")
    text = compiled(params, cluster=CLUSTER.model_copy(update={"one_pod_per_cell": True}))
    size = require_fit(text, cells_of(params.matrix))
    assert isinstance(size, Size)
    assert size.cells == 105
