"""What a submit says: names and ranges, one YAML form, and one line for every mistake."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ByteSize
from ray.train import ScalingConfig

from effnet_cluster.effnet import VARIANTS
from effnet_cluster.effnet.activations import ACTIVATION_NAMES
from effnet_cluster.effnet.stages import SHORTCUTS
from effnet_cluster.orchestration.errors import UserError
from effnet_cluster.orchestration.running.ray_internals import ElasticWorkers
from effnet_cluster.orchestration.search.lists import parse_names
from effnet_cluster.orchestration.spec import ExperimentSpec
from effnet_cluster.orchestration.training.execution import Execution, WorkerRange
from effnet_cluster.orchestration.training.recipes import RECIPES, Recipe, RecipeName
from effnet_cluster.orchestration.training.settings import Setting, params_of, settings_of

FULL: dict[str, Any] = {
    "name": "flowers-1",
    "data": "/data/flowers",
    "variants": "b0-b2,b5",
    "activations": ["silu", "leaky_relu"],
    "shortcuts": "none,residual",
    "seeds": [3, 1],
    "image_size": 64,
    "execution": {
        "workers": 2,
        "cpus_per_worker": 3,
        "device": "cpu",
        "loader_workers": 1,
        "max_concurrent": 2,
        "max_failures": 0,
        "cache_limit": "20GiB",
    },
    "recipe": {"epochs": 2, "lr": 1e-3, "global_batch": 8, "dropout": 0.1, "augment": False, "min_crop": 0.5},
}


# What every number of workers up to 6 shares equally.
BATCH = 60
COUNTS = st.none() | st.integers(1, 2**40)
EXECUTIONS = st.builds(
    Execution,
    workers=st.tuples(st.integers(1, 6), st.integers(1, 6)).map(lambda ends: WorkerRange(min(ends), max(ends))),
    cpus_per_worker=COUNTS,
    device=st.sampled_from(["auto", "cpu", "gpu"]),
    loader_workers=st.none() | st.integers(0, 2**40),
    max_concurrent=COUNTS,
    max_failures=st.integers(0, 2**40),
    checkpoint_steps=st.integers(1, 2**40),
    on_corrupt=st.sampled_from(["stop", "skip"]),
    cache_limit=st.none() | st.integers(1, 2**60).map(ByteSize),
    controller=st.sampled_from(["trial", "actor"]),
)


def spec(**fields: Any) -> ExperimentSpec:
    return ExperimentSpec.parse({"name": "x", "variants": "b0", **fields})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b0", "b0"),
        ("b0-b7", "b0 b1 b2 b3 b4 b5 b6 b7"),
        ("b2-4", "b2 b3 b4"),
        ("b3-b3", "b3"),
        ("b0-b2,b5", "b0 b1 b2 b5"),
        ("b5, b0 ,b5,b0-b1,", "b5 b0 b1"),
        ("B1-B2", "b1 b2"),
    ],
)
def test_lists_and_ranges_expand_in_the_order_given_without_duplicates(text: str, expected: str) -> None:
    assert parse_names(text, VARIANTS, "variant") == tuple(expected.split())


@given(st.lists(st.sampled_from(list(VARIANTS)), min_size=1))
def test_any_list_of_known_names_is_itself_without_duplicates(names: list[str]) -> None:
    parsed = parse_names(",".join(names), VARIANTS, "variant")
    assert set(parsed) == set(names)
    assert list(parsed) == sorted(parsed, key=names.index)


@given(first=st.integers(0, 7), last=st.integers(0, 7))
def test_a_range_is_the_names_from_first_to_last_or_refused(first: int, last: int) -> None:
    if first <= last:
        assert parse_names(f"b{first}-b{last}", VARIANTS, "variant") == tuple(VARIANTS)[first : last + 1]
    else:
        with pytest.raises(UserError, match=f"'b{first}-b{last}' runs backwards; write 'b{last}-"):
            parse_names(f"b{first}-b{last}", VARIANTS, "variant")


@pytest.mark.parametrize("suggestion", ["b5-b2", "b5-2"])
def test_what_a_backwards_range_suggests_is_accepted(suggestion: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_names(suggestion, VARIANTS, "variant")
    written = re.search(r"write '(.*)'", str(caught.value))
    assert written is not None
    assert parse_names(written[1], VARIANTS, "variant") == ("b2", "b3", "b4", "b5")


def test_a_known_name_with_a_dash_and_digits_is_no_range() -> None:
    assert parse_names("a1-2,a3", ("a1-2", "a3"), "thing") == ("a1-2", "a3")


@pytest.mark.parametrize("text", ["b9", "b0-b8", "b0-a3", "0-3", "b", "b0;b1", "b-1"])
def test_an_unknown_name_is_told_with_the_ones_that_exist(text: str) -> None:
    with pytest.raises(
        UserError,
        match=r"^unknown variant '.*'; choose from b0, b1, b2, b3, b4, b5, b6, b7, " + ", ".join([*VARIANTS][8:]) + "$",
    ):
        parse_names(text, VARIANTS, "variant")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b0-b7", "b0 b1 b2 b3 b4 b5 b6 b7"),
        ("b6-8", "b6 b7 b8"),
        ("b0,b0-w1.4,b0-d2.0,b0-r1.3", "b0 b0-w1.4 b0-d2 b0-r1.3"),
        ("B0-W1.40, b0-w1.4, b0-w1.0, b0", "b0-w1.4 b0"),
        ("b0-d1.4-w1.2,b2.50,b0-d2", "b0-w1.2-d1.4 b2.5 b0-d2"),
    ],
)
def test_scaled_variants_have_one_name_each_beside_ranges(text: str, expected: str) -> None:
    written = spec(variants=text)
    assert written.variants == tuple(expected.split())
    assert spec(variants=list(written.variants)) == written


@pytest.mark.parametrize("text", ["b0-b30", "b0-x2", "b0-w0", "b2.5-b3.5", "b0-w1.2-w1.3", "b9-b7"])
def test_a_scaled_variant_that_means_nothing_is_told_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^(unknown )?variant ") as caught:
        spec(variants=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^no variant given; choose from b0, "):
        parse_names(text, VARIANTS, "variant")


def test_the_trials_are_the_product_and_each_once() -> None:
    trials = ExperimentSpec.parse(FULL).combinations()
    assert len(trials) == len(set(trials)) == 4 * 2 * 2 * 2
    assert set(trials) == {
        (v, a, s, n)
        for v in ("b0", "b1", "b2", "b5")
        for a in ("silu", "leaky_relu")
        for s in ("none", "residual")
        for n in (1, 3)
    }
    assert [t[0] for t in trials] == sorted(t[0] for t in trials)


def test_everything_known_can_be_named() -> None:
    everything = spec(variants=",".join(VARIANTS), activations=ACTIVATION_NAMES, shortcuts=",".join(SHORTCUTS))
    assert (everything.variants, everything.activations) == (tuple(VARIANTS), tuple(ACTIVATION_NAMES))
    assert everything.shortcuts == tuple(SHORTCUTS)


def test_a_variant_has_its_own_activation_unless_told_otherwise() -> None:
    own = [trial[:2] for trial in spec(variants="b0,lite0,resnet50,lite0-w1.4").combinations()]
    assert own == [("b0", "silu"), ("lite0", "relu6"), ("resnet50", "relu"), ("lite0-w1.4", "relu6")]
    both = [trial[:2] for trial in spec(variants="b0,lite0", activations="own,silu").combinations()]
    assert both == [("b0", "silu"), ("lite0", "relu6"), ("lite0", "silu")]


def test_duplicate_seeds_are_dropped() -> None:
    assert spec(seeds=[2, 0, 2]).seeds == (2, 0)


@pytest.mark.parametrize("fields", [FULL, {"name": "small", "variants": "b0"}])
def test_yaml_reads_back_as_the_same_specification(fields: dict[str, Any], tmp_path: Path) -> None:
    written = ExperimentSpec.parse(fields)
    path = tmp_path / "spec.yaml"
    path.write_text(written.to_yaml())
    assert ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(path)) == written


def test_yaml_of_a_person_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: mine\nvariants: b0-b1\nactivations: [relu, silu]\nrecipe:\n  epochs: 3\n")
    read = ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(path))
    assert read == ExperimentSpec(
        name="mine", variants=("b0", "b1"), activations=("relu", "silu"), recipe=Recipe(epochs=3)
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"execution": {"workers": 0}}, "execution.workers"),
        ({"execution": {"workers": "two"}}, "execution.workers"),
        ({"execution": {"workers": "2:4:8"}}, "execution.workers"),
        ({"execution": {"workers": True}}, "execution.workers"),
        ({"execution": {"cache_limit": "20 parsecs"}}, "execution.cache_limit"),
        ({"execution": {"cache_limit": 0}}, "execution.cache_limit"),
        ({"execution": {"wrokers": 2}}, "execution.wrokers: there is no such setting"),
        ({"execution": 5}, "execution"),
        ({"image_size": 7}, "image_size"),
        ({"execution": {"device": "tpu"}}, "execution.device"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [1.5]}, "seeds"),
        ({"seeds": "4-0"}, "seeds"),
        ({"seeds": [2**32]}, "seeds"),
        ({"execution": {"max_failures": -1}}, "execution.max_failures"),
        ({"variants": "b0-x9"}, "variant"),
        ({"variants": 5}, "variant"),
        ({"activations": "swosh"}, "activation"),
        ({"activations": []}, "activation"),
        ({"shortcuts": "dense"}, "shortcut"),
        ({"learning_rate": 1}, "learning_rate"),
        ({"recipe": {"epochs": 0}}, "recipe.epochs"),
        ({"recipe": {"lr": -1}}, "recipe.lr"),
        ({"recipe": {"lr": float("nan")}}, "recipe.lr"),
        ({"recipe": {"lr": float("inf")}}, "recipe.lr"),
        ({"recipe": {"warmup_epochs": float("inf")}}, "recipe.warmup_epochs"),
        ({"recipe": {"dropout": 1}}, "recipe.dropout"),
        ({"recipe": {"momentun": 0.9}}, "recipe.momentun"),
        ({"recipe": {"momentum": 1}}, "recipe.momentum"),
        ({"recipe": "papr"}, "recipe"),
        ({"recipe": {"name": "papr"}}, "recipe"),
        ({"recipe": 5}, "recipe"),
    ],
)
def test_a_wrong_field_is_told_in_one_line_that_names_it(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        spec(**fields)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["", "Upper", "-x", "a b", "a/b", "../x", "a" * 64, "ü", "x\n", "a'b"])
def test_a_name_that_cannot_be_a_folder_and_a_tag_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^name: use up to 63 of a-z"):
        spec(name=name)


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 63])
def test_other_names_are_free(name: str) -> None:
    assert spec(name=name).name == name


@pytest.mark.parametrize(
    "content",
    [b"", b"- b0\n- b1\n", b"b0", b"a: [", b"a: b: c", b"\xff\xfe\x00binary", b"!!python/object:os.system {}"],
)
def test_a_file_that_is_no_mapping_in_yaml_is_told_in_one_line_with_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        ExperimentSpec.fields_from_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_are_no_words_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nvariants: b0\n1: 2\n")
    with pytest.raises(UserError):
        ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(path))


def test_a_missing_file_or_a_folder_is_told_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(UserError, match=re.escape(str(path))):
            ExperimentSpec.fields_from_yaml(path)


def test_a_specification_is_a_value() -> None:
    first, second = ExperimentSpec.parse(FULL), ExperimentSpec.parse(FULL)
    assert first == second
    with pytest.raises(Exception, match="frozen"):
        first.execution.workers = WorkerRange(3, 3)  # type: ignore[misc]


@pytest.mark.parametrize("setting", [s for s in settings_of(ExperimentSpec) if len(s.path) == 2], ids=str)
def test_a_setting_that_stands_outside_its_section_is_told_where_it_belongs(setting: Setting) -> None:
    section, name = setting.path
    if name in ExperimentSpec.model_fields:
        return  # the experiment has a `name` of its own
    with pytest.raises(UserError, match=rf"^{name} belongs under '{section}:'; move it there$"):
        spec(**{name: "1"})


@settings(deadline=None)  # it writes files
@given(EXECUTIONS)
def test_any_execution_survives_yaml_and_json(execution: Execution) -> None:
    written = ExperimentSpec(name="x", variants=("b0",), execution=execution, recipe=Recipe(global_batch=BATCH))
    with TemporaryDirectory() as folder:
        path = Path(folder, "spec.yaml")
        path.write_text(written.to_yaml())
        assert ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(path)) == written
    assert ExperimentSpec.model_validate_json(written.model_dump_json()) == written
    assert Execution.model_validate_json(execution.model_dump_json()) == execution


def test_a_range_of_workers_and_an_amount_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: x\nvariants: b0\nseeds: 0,1\nexecution: {workers: 2:4, cache_limit: 1.5 GiB}\n")
    read = ExperimentSpec.parse(ExperimentSpec.fields_from_yaml(path))
    assert read.execution == Execution(workers=WorkerRange(2, 4), cache_limit=ByteSize(3 * 2**29))
    assert read.seeds == (0, 1)
    assert "workers: 3\n" in spec(execution={"workers": "3"}).to_yaml()


def test_parameters_are_all_settings_that_are_set_by_their_names() -> None:
    params = params_of(ExperimentSpec.parse(FULL))
    fields = ExperimentSpec.parse(FULL).model_dump(mode="json")
    named = {"recipe": fields.pop("recipe"), "scheduler": fields.pop("scheduling")}
    names = {flag: section.pop("name") for flag, section in named.items()}
    nested = fields.pop("execution") | fields.pop("search") | named["recipe"] | named["scheduler"]
    expected = names | {"search": nested.pop("method")} | nested | fields
    assert params == {name: value for name, value in expected.items() if value not in (None, {})}
    assert (params["recipe"], params["workers"], params["cache_limit"]) == ("basic", 2, 20 * 2**30)
    assert not {"clip_grad", "shuffle_block"} & params.keys()


def test_every_name_of_a_recipe_has_one() -> None:
    assert set(RECIPES) == set(get_args(RecipeName))


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_is_valid_and_survives_its_yaml(name: str) -> None:
    spec = ExperimentSpec.parse({"name": "x", "variants": "b0", "recipe": name})
    assert spec.recipe.name == name
    assert ExperimentSpec.parse(yaml.safe_load(spec.to_yaml())) == spec
    assert Recipe(**spec.recipe.model_dump()) == spec.recipe


@pytest.mark.parametrize(
    ("workers", "counts"), [("2:4", (2, 4)), ("1:8", (1, 2, 4, 8)), ("3:4", (4,)), (3, (3,)), ("4:4", (4,))]
)
def test_a_trial_takes_only_numbers_of_workers_that_share_the_batch(
    workers: str | int, counts: tuple[int, ...]
) -> None:
    assert (
        spec(execution={"workers": workers}, recipe={"global_batch": 1024}).execution.worker_counts("b0", 1024)
        == counts
    )


def test_a_range_without_such_a_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"global batch 1024 cannot be shared .* from 5 to 7"):
        spec(execution={"workers": "5:7"}, recipe={"global_batch": 1024})


@pytest.mark.parametrize(("cores", "count"), [(1, 0), (2, 2), (3, 2), (4, 4), (9, 4)])
def test_an_elastic_trial_never_has_another_number(cores: int, count: int) -> None:
    policy = ElasticWorkers((2, 4), ScalingConfig(num_workers=(2, 4)))
    assert policy._count_possible_workers({"node": {"CPU": cores}}) == count


def test_a_mode_of_the_compiler_needs_the_compiler() -> None:
    fields = {"name": "x", "variants": "b0", "recipe": {"compile_mode": "reduce-overhead"}}
    with pytest.raises(UserError, match="compile_mode reduce-overhead does nothing without compile; add compile"):
        ExperimentSpec.parse(fields)
    mode = {"compile_mode": "reduce-overhead", "compile": True}
    assert ExperimentSpec.parse({**fields, "recipe": mode}).recipe.compile_mode == "reduce-overhead"


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_mixing_takes_a_global_batch_of_two(method: str) -> None:
    fields = {"name": "x", "variants": "b0", "recipe": {method: 0.2, "global_batch": 1}}
    with pytest.raises(UserError, match="take two images to mix; use a global_batch of at least 2"):
        ExperimentSpec.parse(fields)
    assert ExperimentSpec.parse({**fields, "recipe": {method: 0.2, "global_batch": 2}}).recipe.mixes
