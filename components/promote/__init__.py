"""Move the alias ``champion``: promote a version that passes the gate, or roll back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.params import Params, RegistryParams
from registry import CHAMPION, answered, history, shadow
from registry.lock import PromotionLock, UnconfirmedError, promotion_lock
from registry.versions import TrainedOn, Version, read_aliases, read_champion, read_version, splits_digest, trained_on
from tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from components.promote.gate import Gate
    from components.promote.scoring import TestSet

PAGES = "promotion"  # artifact folder of the gate's pages in a version's run


@dataclass(frozen=True)
class Promotion:
    """Result of a promotion or a rollback.

    Attributes:
        name: the registered model.
        version: the version to promote or to roll back to.
        previous: the previous champion; None: no champion.
        champion: the champion now; None: no champion.
        line: summary in one line.
        passed: whether the version passed the gate; None without a gate.
        page: the decision as Markdown.
    """

    name: str
    version: int
    previous: int | None
    champion: int | None
    line: str
    passed: bool | None
    page: str = ""


def promote(
    params: Params,
    arrays: Path,
    splits: Path,
    version: int | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
    reason: str = "",
    wide: bool = False,
) -> Promotion:
    """Make a version champion if it passes the gate; print every rule with its values and verdict.

    Challenger and champion are downloaded from the registry and scored on the same test images, each with the
    post-processing of its own package. The bounds of the rules are in :class:`core.params.PromotionParams`. Without a
    champion, only two rules apply: the floor, and that the version was not rolled back. Every decision, even a refusal,
    is recorded in the history (:mod:`registry.history`) and in the version's tags. The alias is set last, so that an
    earlier error does not change the champion.

    Args:
        params: all parameters; the model's name and the gate's bounds are used.
        arrays: the preprocessed cohort.
        splits: folder of the splits; the split of the version's scenario is used.
        version: the version's number; None: the challenger.
        dry_run: compare and print, but change nothing.
        force: promote even if a rule is not met; needs a reason.
        reason: reason for the history.
        wide: print every column of the tables.

    Returns:
        The result. A failed gate is not an error: ``champion`` is unchanged and the caller prints ``line``.

    Raises:
        UserError: there is no such version, it was trained on other data than the arrays or on their test images, the
            champion changed during the comparison, or the registry does not answer. The champion is then unchanged,
            unless the message says otherwise.
    """
    from components.promote.render import markdown, show

    if force and not reason.strip():
        raise UserError("--force overrides the gate: give the reason with --reason '...', for the history")
    name, client = params.register_.model, connect(existing=True)
    challenger, champion = read_version(client, name, version), read_champion(client, name)
    if champion and champion.number == challenger.number:
        line = f"{challenger} is champion already; nothing was changed"
        print(line)
        return Promotion(name, challenger.number, champion.number, champion.number, line, None, f"{line}\n")
    gate = _gate(client, params, arrays, splits, challenger, champion)
    show(gate, wide=wide)
    before = champion.number if champion else None
    goes = gate.passed or force
    verdict = "passes the gate" if gate.passed else f"does not pass the gate ({', '.join(gate.failed)})"
    if dry_run:
        line = f"{challenger} {verdict}; dry run: nothing was changed, champion: {before or 'none'}"
        if goes:
            print(line)
        return Promotion(name, challenger.number, before, before, line, gate.passed, markdown(gate, verdict, {}))
    if goes:
        how = "" if gate.passed else f", forced: it {verdict}"
        line = f"{challenger} is champion (before: {before or 'none'}){how}"
    else:
        line = f"{challenger} {verdict}; champion stays {before or 'none'}"
    page = markdown(gate, line.removeprefix(f"{challenger} "), {"by": history.actor(), "reason": reason})
    decision = history.Decision(
        kind=history.PROMOTE,
        state=history.INTENDED if goes else history.REFUSED,
        previous=before,
        version=challenger.number,
        forced=goes and not gate.passed,
        reason=reason,
        figures=gate.figures,
    )
    if goes:
        with promotion_lock(client, name, params.promotion.lock) as held:
            _move(client, held, champion, decision, page, gate)
    else:
        refused = history.write(client, name, decision, asdict(gate), page)
        _mark(client, gate, refused, "refused", page)
    if goes:
        print(line)
    return Promotion(name, challenger.number, before, challenger.number if goes else before, line, gate.passed, page)


def rollback(params: RegistryParams, *, dry_run: bool = False, reason: str = "") -> Promotion:
    """Restore the previous champion from the history, without the gate.

    A second rollback goes one champion further back. A version that was rolled back is never restored.

    Args:
        params: the parameters with the model's name.
        dry_run: print, but change nothing.
        reason: reason for the history.

    Raises:
        UserError: there is no predecessor, it was deleted, or the registry does not answer.
    """
    name, client = params.register_.model, connect(existing=True)
    champion = read_champion(client, name)
    number = champion.number if champion else None
    decided = history.read(client, name, number)
    line_up = history.line_of_champions(decided, number)
    if number is not None:
        line_up = line_up[:-1]
    if not line_up:
        now = f"version {number} is the first champion" if number else "there is no champion"
        raise UserError(f"{name}: {now} in the history; there is no earlier champion")
    back = read_version(client, name, line_up[-1])
    if dry_run:
        line = f"{back} would be champion again (now: {number or 'none'}); dry run: nothing was changed"
        print(line)
        return Promotion(name, back.number, number, number, line, None)
    line = f"{back} is champion again (before: {number or 'none'})"
    page = f"# {line}\n\n- by: {history.actor()}\n- reason: {' '.join(reason.split()) or 'none given'}\n"
    decision = history.Decision(
        kind=history.ROLLBACK, state=history.INTENDED, previous=number, version=back.number, reason=reason
    )
    # A process that died after it set this champion still holds its lock.
    moved = {each.number for each in decided if each.state == history.DONE and each.version == number}
    with promotion_lock(client, name, params.promotion.lock, moved) as held:
        _move(client, held, champion, decision, page)
    print(line)
    return Promotion(name, back.number, number, back.number, line, None, page)


def _gate(
    client: MlflowClient, params: Params, arrays: Path, splits: Path, challenger: Version, champion: Version | None
) -> Gate:
    from components.promote.evidence import doubts_about, require_same_data
    from components.promote.gate import Gate, judge
    from components.promote.scoring import TestSet, score

    scenario = challenger.tags.get("scenario", params.register_.scenario)
    test = TestSet.read(arrays, splits, scenario)
    known = trained_on(client, challenger)
    require_same_data(challenger, known, test, arrays)
    ours = score(challenger, test, params.evaluate.batch_size, params.promotion, params.registry.signatures)
    theirs, doubts = None, []
    if champion:
        doubts = doubts_about(champion, trained_on(client, champion), test)
        try:
            theirs = score(champion, test, params.evaluate.batch_size, params.promotion, params.registry.signatures)
        except UserError as error:
            doubts.append(str(error))
    gone = _rolled_back(client, challenger, champion)
    seen = shadow.read(challenger.tags, champion.number) if champion else None
    rules, groups = judge(ours, theirs, champion, doubts, gone, params.promotion, seen)
    how = {"challenger": ours.how} | ({"champion": theirs.how} if theirs else {})
    return Gate(challenger, champion, _about(known, test) | how, rules, groups)


def _rolled_back(client: MlflowClient, challenger: Version, champion: Version | None) -> str:
    """Return when, by whom and why a version was rolled back and not promoted since; empty if it was not."""
    now = champion.number if champion else None
    gone = history.rolled_back(history.read(client, challenger.name, now), now).get(challenger.number)
    return f"{gone.when[:10]} by {gone.who}: {gone.reason or 'no reason given'}" if gone else ""


def _about(known: TrainedOn, test: TestSet) -> dict[str, str]:
    return {
        "test images": f"{len(test.order)} of {test.cohort.card['name']}, split {test.scenario}",
        "splits": splits_digest(test.split),
        "manifest": str(test.cohort.info["manifest_sha256"]),
        "data": known.data_md5 or "not pinned",
    }


def _move(
    client: MlflowClient,
    held: PromotionLock,
    found: Version | None,
    decision: history.Decision,
    page: str,
    gate: Gate | None = None,
) -> None:
    """Record the decision, move the alias, close the decision, in this order.

    Raises:
        UserError: the champion is no longer ``found``; nothing was changed.
    """
    name = held.name
    now = read_aliases(client, name).get(CHAMPION)
    past = history.read(client, name, now)
    for each in past:
        if not each.closed and each.number:
            history.close(client, each, each.state)
    if now != (found.number if found else None):
        last = next((each for each in reversed(past) if each.version == now and each.state == history.DONE), None)
        by = f", by {last.who}" if last else ""
        raise UserError(
            f"{name}: version {now or 'none'} became champion during the comparison{by}; nothing was changed: "
            "check it with `defunet models`, then run again"
        )
    details = asdict(gate) if gate else None
    written = history.write(client, name, replace(decision, number=held.number), details, page)
    if gate:
        _mark(client, gate, written, "passed" if gate.passed else "forced", page)
    held.check()
    _set_champion(client, name, decision.version, now)
    # The champion has moved; even if close() fails, the history infers it from the alias.
    try:
        history.close(client, written, history.DONE)
    except UserError as error:
        print(f"note: {error}; the champion has moved; the history infers it from the alias")


def _set_champion(client: MlflowClient, name: str, version: int, before: int | None) -> None:
    """Set the alias, and check the champion if the request fails.

    Raises:
        UnconfirmedError: the alias is not set, or it is unknown whether it is.
    """
    try:
        with answered(f"model {name}"):
            client.set_registered_model_alias(name, CHAMPION, str(version))
        return
    except UserError as error:
        cause = str(error)
    try:
        now = read_aliases(client, name).get(CHAMPION)
    except UserError:
        raise UnconfirmedError(
            f"{name}: champion was {before or 'none'}, version {version} was requested, and the registry stopped "
            f"answering ({cause}); `defunet models` shows the champion when the registry is back"
        ) from None
    if now != version:
        raise UnconfirmedError(
            f"{name}: champion is still {now or 'none'}; the registry did not set version {version} ({cause}). Should "
            "the request arrive late, `defunet models --history` shows it"
        )


def _mark(client: MlflowClient, gate: Gate, decision: history.Decision, verdict: str, page: str) -> None:
    """Record a gate's verdict on the version: as tags, and as a page in the version's run."""
    from mlflow.exceptions import MlflowException

    version, where = gate.challenger, f"{PAGES}/{decision.id}.md"
    link = f"runs:/{version.run_id}/{where}"
    with answered(str(version)):
        try:
            client.log_text(version.run_id, page, where)
        except MlflowException as error:
            # The run may be in another store or deleted; the history has the page too.
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            link = f"runs:/{decision.id}/{history.MARKDOWN}"
        tags = {
            "promotion.verdict": verdict,
            "promotion.when": decision.when,
            "promotion.by": decision.who,
            "promotion.decision": decision.id,
            "promotion.page": link,
            **{f"promotion.{r.name}": f"{'met' if r.passed else 'NOT MET'}: {r.found}"[:4000] for r in gate.rules},
        }
        for key, value in tags.items():
            client.set_model_version_tag(version.name, str(version.number), key, value)
