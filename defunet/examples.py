"""One example of each command, which its help shows."""

from __future__ import annotations

EXAMPLES = {
    "predict": "defunet predict xrays/ -o lungs",
    "serve": "defunet serve --model models:/lung-segmentation@champion --port 8080",
    "drift": "defunet drift lungs/results.csv -o drift",
    "review export": "defunet review export lungs --inputs xrays -o work",
    "review import": "defunet review import work --cohort data --by 'A. Reader'",
    "promote": "defunet promote --dry-run",
    "rollback": "defunet rollback --reason 'left lungs cut off'",
    "models": "defunet models --history",
    "lineage": "defunet lineage 3",
    "checkpoints": "defunet checkpoints s3://data/states",
    "compile": "defunet compile -o build/pipeline.yaml --image registry.example/defunet:1",
    "submit": "defunet submit --source s3://data/cxr --wait",
    "schedule": "defunet schedule --source s3://data/cxr --cron '0 30 3 * * 1'",
    "schedules": "defunet schedules",
    "schedules pause": "defunet schedules pause 0a1b2c3d",
    "schedules resume": "defunet schedules resume 0a1b2c3d",
    "schedules delete": "defunet schedules delete 0a1b2c3d",
    "runs": "defunet runs --limit 20",
    "status": "defunet status 0a1b2c3d --wait",
    "logs": "defunet logs 0a1b2c3d --task 'train defu_net' --follow",
    "cancel": "defunet cancel 0a1b2c3d",
    "retry": "defunet retry 0a1b2c3d --wait",
}


def example(command: str) -> str:
    """Return the example of a command, such as ``schedules pause``, as the last line of its help."""
    return f"Example: {EXAMPLES[command]}"
