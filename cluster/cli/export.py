"""`effnet-cluster export`: a trained model as one file that runs without effnet-cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...orchestration.errors import EngineError, UserError
from ..home import Home
from ..model_address import load_trained
from .console import print_line

if TYPE_CHECKING:
    from ...effnet.export import Format

_EXTRA = "pip install 'effnet-cluster[export]'"


@click.command("export")
@click.option(
    "--model",
    required=True,
    help="An experiment, for its best model; EXPERIMENT/TRIAL; models:/NAME@champion; runs:/ID; a checkpoint's path.",
)
@click.option("--format", "form", type=click.Choice(["onnx", "pt2"]), required=True, help="File format.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--logits",
    is_flag=True,
    help="The bare network: normalised float images (N, 3, S, S) to logits.  "
    "[default: uint8 images (N, height, width, 3) of any size to probabilities]",
)
@click.option("--tracking-uri", help="An existing MLflow server, such as http://mlflow:5000.")
def command(model: str, form: Format, out: Path, logits: bool, tracking_uri: str | None) -> None:
    """Write a trained model as ONNX or .pt2.

    A .pt2 is a PyTorch exported program. Both take batches of any size.

    The file is read back and must compute what the model computes. It holds the names of the classes.
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder does not exist")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it")
    trained = load_trained(Home.default(), model, tracking_uri)
    # Here and not above: it imports torch, which a wrong call should not wait for.
    from ...effnet.export import ExportError
    from ...orchestration.tracking.trained import export_trained

    try:
        difference = export_trained(trained, out, form, logits=logits)
    except ImportError as error:
        raise UserError(f"--format {form} needs more packages ({error.name}): {_EXTRA}") from None
    except ExportError as error:
        raise EngineError(f"{model}: {error}") from None
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    print_line(f"{out}  {out.stat().st_size / 1e6:.1f} MB, differs from the model by at most {difference:.1g}")
