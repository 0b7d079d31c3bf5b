"""The room stands alone: planning needs no torch, and the network nothing but torch."""

import subprocess
import sys

import effnet_cluster.effnet as effnet

ENGINES = ("ray", "mlflow", "webdataset", "torchvision")


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.split())


def test_planning_does_not_import_torch() -> None:
    loaded = modules_after(
        "from effnet_cluster.effnet import ACTIVATIONS, Budget, complexity, largest_phi, network_config, variant\n"
        "complexity(network_config('densenet169', num_classes=5), 64)\n"
        "complexity(variant('b7', activation='prelu'))\n"
        "largest_phi(Budget(macs=1e9, memory=1e10))"
    )
    assert "effnet_cluster" in loaded
    assert loaded.isdisjoint({"torch", "numpy", *ENGINES})


def test_the_network_imports_no_engine() -> None:
    loaded = modules_after(
        "from effnet_cluster.effnet import EfficientNet, variant\nEfficientNet(variant('b0', depth=0.1, width=0.1))"
    )
    assert "torch" in loaded
    assert loaded.isdisjoint(ENGINES)


def test_every_public_name_is_there() -> None:
    assert all(hasattr(effnet, name) for name in effnet.__all__)
    assert set(effnet.__all__) <= set(dir(effnet))
    assert not hasattr(effnet, "nonsense")
