"""Show the figures of ``benchmarks.training`` and ``benchmarks.inference`` as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from core import terminal


def _range(values: dict[str, Any], digits: int) -> str:
    return f"{values['least']:.{digits}f} to {values['most']:.{digits}f}"


def _digits(values: dict[str, Any]) -> int:
    """Return the number of decimals that shows three significant digits of a rate."""
    return 2 if values["median"] < 10 else 1 if values["median"] < 100 else 0


def _rate(values: dict[str, Any]) -> str:
    return f"{values['median']:.{_digits(values)}f}"


def heading(figures: dict[str, Any]) -> str:
    """Return two lines on what was measured and on which machine."""
    settings, machine = figures["settings"], figures["hardware"]
    recipe = settings["recipe"]
    return (
        f"{settings['network']}, {settings['size']} x {settings['size']}, width {recipe['width']:g}, batch "
        f"{recipe['batch_size']}; shipped: precision {recipe['precision']}, compile {str(recipe['compile']).lower()}\n"
        f"{settings['device']}: {machine['gpu'] or machine['cpu']}, threads: {settings['threads']}, cores: "
        f"{machine['cores']}; torch {figures['versions']['torch']}"
    )


def speed(figures: dict[str, Any], own: bool) -> list[Table | str]:
    """Return images per second of both loops, their ratio and the loader's share; ``own``: by both clocks."""
    columns = ["images a second", "least to most", *["by processor time"] * own, "loading, share of a step"]
    table = terminal.table("Training", ["loop"], columns)
    for name, values in figures["images_per_second"].items():
        share, busy = figures["loader_share"].get(name), figures["own_images_per_second"][name]
        cells = [_rate(values), _range(values, _digits(values)), *[_rate(busy)] * own]
        table.add_row(name, *cells, "" if share is None else f"{share:.1%}")
    ratio = figures["ratio"]
    text = (
        f"shipped over {figures['plain']}: {ratio['median']:.2f} ({_range(ratio, 2)} over {len(ratio['rounds'])} "
        f"rounds); target {ratio['target']:g}: {'met' if ratio['met'] else 'NOT met'}"
    )
    if own:
        text += f"; by processor time {ratio['own']['median']:.2f} ({_range(ratio['own'], 2)})"
    return [table, text]


def rungs(figures: list[dict[str, Any]], own: bool) -> Table:
    """Return the ladder: the gain of each optimisation; ``own``: by both clocks."""
    busy = ["by processor"] * own
    title = "One lever after the other: medians over rounds of ratios"
    table = terminal.table(
        title, ["loop"], ["images/s", "to the one before", "least to most", *busy, "to plain", *busy]
    )
    for rung in figures:
        before, plain = rung["to_before"], rung["to_plain"]
        cells = [_rate(rung["images_per_second"]), f"{before['median']:.2f}", _range(before, 2)]
        cells += [f"{before['own']['median']:.2f}"] * own
        cells += [f"{plain['median']:.2f}", *[f"{plain['own']['median']:.2f}"] * own]
        table.add_row(rung["name"], *cells)
    return table


def rooflines(figures: dict[str, Any]) -> list[Table | str]:
    """Return the machine's rates and the shares that both loops reach."""
    rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in figures["matrix_flops"].items())
    table = terminal.table(
        "Rooflines (with one thread of a CPU, by processor time)",
        ["loop"],
        ["precision", "ms a step", "least by the rates", "TFLOP/s", "of the rate"],
    )
    for name, step in figures["steps"].items():
        table.add_row(
            name,
            step["precision"],
            f"{1e3 * step['seconds']:.1f}",
            f"{1e3 * step['least_seconds']:.1f}",
            f"{step['achieved'] / 1e12:.3g}",
            f"{step['share']:.1%}",
        )
    return [
        f"Measured here: matrix products {rates}; copies {figures['bandwidth_bytes'] / 1e9:.3g} GB/s read and written",
        table,
        *(f"{name}: {step['text']}" for name, step in figures["steps"].items()),
    ]


def scores(figures: dict[str, Any]) -> list[Table | str]:
    """Return the validation Dice of both loops after the same number of steps."""
    seeds = len(figures["difference"]["rounds"])
    title = f"Validation Dice after {figures['steps']} steps, {seeds} seed{'s' * (seeds > 1)}"
    table = terminal.table(title, ["loop"], ["mean", "least to most", "loss, first steps", "loss, last steps"])
    for name, values in figures["dice"].items():
        losses = figures["losses"].get(name)
        ends = ["", ""] if losses is None else [f"{sum(ends) / seeds:.3f}" for ends in zip(*losses, strict=True)]
        table.add_row(name, f"{values['mean']:.4f}", _range(values, 4), *ends)
    difference = figures["difference"]
    verdicts = {
        True: "within the spread over seeds",
        False: "BEYOND the spread over seeds",
        None: "no spread to judge by",
    }
    return [
        table,
        f"shipped less plain, by seed: {difference['mean']:+.4f} ({difference['least']:+.4f} to "
        f"{difference['most']:+.4f}), {verdicts[figures['within_noise']]}",
    ]


def inference(figures: dict[str, Any], own: bool) -> list[Table | str]:
    """Return the figures of ``benchmarks.inference``: one row per engine, and the verdict on the shipped default."""
    settings, machine, found = figures["settings"], figures["hardware"], figures["verdict"]
    heading = (
        f"{settings['model']}, {settings['size']} x {settings['size']}, {settings['images']} images a turn\n"
        f"{machine['cpu']}, threads: {settings['threads']}, cores: {machine['cores']}"
    )
    batches = f"batches of {settings['batch']}"
    columns = ["images/s", f"to eager, {batches}", "least to most", *["by processor"] * own]
    columns += ["one by one", *["by processor"] * own, *[f"Dice lost, {split}" for split in settings["scored"]]]
    table = terminal.table("Engines: medians over rounds of ratios", ["engine"], columns)
    for row in figures["engines"]:
        cells = [_rate(row["images_per_second"]["batches"])]
        for how in ("batches", "single"):
            ratio = row["to_eager"][how]
            cells += [f"{ratio['median']:.2f}", *[_range(ratio, 2)] * (how == "batches")]
            cells += [f"{ratio['own']['median']:.2f}"] * own
        cells += [f"{lost:+.5f}" for lost in row["lost"].values()]
        table.add_row(row["name"], *cells)
    scored = ", ".join(f"{count} {split}" for split, count in settings["scored"].items())
    clock = "by processor time " if own else ""
    taken = [
        f"auto takes {found['engine']} where {what}: {found['reason']}"
        for what, found in (
            ("a package allows all", figures["choice"]["all"]),
            ("it allows float32 alone", figures["choice"]["float32"]),
        )
    ]
    return [
        heading,
        table,
        *taken,
        f"Dice: mean over {scored} images, original masks; 8-bit integers calibrated on {settings['calibration']} "
        "validation images",
        f"fastest within {found['tolerance']:g} of eager's Dice: {found['fastest']}",
        f"shipped: {found['shipped']}: {clock}{found['ratio']:.2f} times eager, target {found['target']:g}: "
        f"{'met' if found['met'] else 'NOT met'}; Dice {'within' if found['within'] else 'NOT within'} the tolerance",
    ]
