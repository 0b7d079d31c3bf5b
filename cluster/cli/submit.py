"""`effnet-cluster submit`: plan an experiment, start what is missing, submit it and follow it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ...datasets import Manifest, open_dataset
from ...orchestration.errors import UserError
from ...orchestration.plan import make_plan
from ...orchestration.request import ExperimentRequest
from ...orchestration.spec import ExperimentSpec, slug
from ...orchestration.training.execution import Execution
from ..engines import ensure_engines
from ..experiments import Experiments
from ..follow import plan_table
from ..home import Home
from ..lifecycle import launch
from ..quantities import parse_bytes
from .console import print_addresses, print_data, talk
from .following import follow_to_end
from .options import engine_options
from .recipe_options import recipe_options, take_recipe


@click.command("submit")
@click.option("--variants", help="EfficientNet variants, such as b0-b7, b0,b2.5 or b0-w1.4,b0-d2.")
@click.option("--activations", help="Activations, such as silu,relu,leaky_relu.  [default: each variant's own]")
@click.option("--shortcuts", help="residual (the paper's), none, identity_conv.  [default: residual]")
@click.option("--seeds", help="Seeds, such as 0,1,2.  [default: 0]")
@click.option("--data", help="'digits', or a folder or s3://, gs://, http(s):// address of shards.  [default: digits]")
@click.option("--shuffle-block", type=int, help="Shards shuffled together.  [default: all; 16 of remote ones]")
@click.option("--cache-limit", help="Disk a node gives to remote shards, such as 20GiB.  [default: 32GiB]")
@click.option("--image-size", type=int, help="Input side in pixels for all variants.  [default: by variant and data]")
@click.option("--workers", help="DDP workers a trial, such as 4; 2:4 takes as many as there are.  [default: 1]")
@click.option("--cpus-per-worker", type=int, help="CPU cores a DDP worker.  [default: what fits]")
@click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), help="[default: auto]")
@click.option("--loader-workers", type=int, help="Loader processes a DDP worker.  [default: 0]")
@click.option("--max-concurrent", type=int, help="Trials at a time.  [default: what fits]")
@click.option("--controller", type=click.Choice(["trial", "actor"]), help="[default: trial]")
@click.option("--max-failures", type=int, help="Restarts of a trial after lost workers.  [default: 3]")
@click.option("--checkpoint-steps", type=int, help="Steps between checkpoints within an epoch.  [default: 500]")
@click.option(
    "--on-corrupt",
    type=click.Choice(["stop", "skip"]),
    help="Images that do not decode; skip lists them.  [default: stop]",
)
@recipe_options
@click.option("--name", help="Name of the experiment.  [default: from data and variants]")
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), help="YAML file with these settings; flags win.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the settings to a YAML file for --spec.")
@click.option("--storage", help="Folder or URL that all nodes see, for checkpoints.  [default: in the home]")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--detach", is_flag=True, help="Do not follow the experiment.")
@engine_options
def command(
    spec_file: Path | None,
    save: Path | None,
    storage: str | None,
    dry_run: bool,
    detach: bool,
    address: str | None,
    tracking_uri: str | None,
    dashboard_port: int | None,
    mlflow_port: int | None,
    **flags: Any,
) -> None:
    """Train variants × activations × shortcuts × seeds, each trial as a DDP job."""
    home = Home.default()
    experiments = Experiments(home)
    fields = _fields(spec_file, flags)
    named = "name" in fields
    manifest = _open_data(fields, home, address)
    if not named:
        fields["name"] = experiments.free_name(_default_name(fields, manifest))
    spec = ExperimentSpec.parse(fields)
    plan = make_plan(spec, manifest)
    if save:
        _write(save, spec)
    if dry_run:
        print_data(plan_table(plan))
        return
    experiments.require_free(spec.name)  # before services are started; `launch` checks again
    talk().print(plan_table(plan))
    engines = ensure_engines(home, address, tracking_uri, dashboard_port, mlflow_port)
    request = ExperimentRequest(
        plan=plan,
        tracking_uri=engines.tracking_uri,
        storage=_storage(storage, experiments, spec.name),
        cache_root=str(home.cache),
    )
    experiment = launch(home, request, engines)
    print_addresses(engines.address, engines.tracking_uri)
    if detach:
        talk().print(f"submitted {spec.name}; `effnet-cluster logs {spec.name} -f` follows it", highlight=False)
        return
    sys.exit(follow_to_end(experiment))


def _fields(spec_file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Settings by precedence: flags and their environment variables over the file over the defaults."""
    fields = ExperimentSpec.fields_from_yaml(spec_file) if spec_file else {}
    given = {name: value for name, value in flags.items() if value is not None}
    if "cache_limit" in given:
        given["cache_limit"] = parse_bytes(given["cache_limit"], "--cache-limit")
    if "seeds" in given:
        given["seeds"] = [seed.strip() for seed in str(given["seeds"]).split(",")]
    recipe = take_recipe(fields.get("recipe"), given)
    execution = {name: given.pop(name) for name in Execution.model_fields if name in given}
    fields |= given
    if execution:
        fields["execution"] = {**fields.get("execution", {}), **execution}
    if recipe:
        fields["recipe"] = recipe
    if not fields.get("variants"):
        raise UserError("no variants given; say which with --variants, such as b0-b7")
    return fields


def _open_data(fields: dict[str, Any], home: Home, address: str | None) -> Manifest:
    """The data's manifest. Relative folders are made absolute: the job runs in another folder."""
    # Checked before the data are opened, which may take a while: a typing mistake should be told at once.
    ExperimentSpec.parse(fields | {"name": fields.get("name", "unnamed")})
    data = str(fields.get("data", "digits"))
    manifest = open_dataset(data, home.cache, fields.get("execution", {}).get("cache_limit"))
    if data != "digits":
        fields["data"] = manifest.location
    return manifest


def _default_name(fields: dict[str, Any], manifest: Manifest) -> str:
    variants = fields["variants"]
    text = variants if isinstance(variants, str) else ",".join(variants)
    return f"{slug(manifest.name)}-{slug(text)}"[:50]


def _storage(given: str | None, experiments: Experiments, name: str) -> str:
    if given is None:
        return str(experiments.folder(name))
    root = given.rstrip("/") if "://" in given else str(Path(given).absolute())
    return f"{root}/{name}"


def _write(path: Path, spec: ExperimentSpec) -> None:
    try:
        path.write_text(spec.to_yaml())
    except OSError as error:
        raise UserError(f"--save {path}: {error.strerror}") from None
