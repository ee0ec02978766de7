"""A module that breaks the HEAR API is found on noise, with one line that says how."""

import json

import pytest

from myna_plugin.common.errors import InputError
from myna_plugin.hear_eval import compatibility
from myna_plugin.hear_eval.contract import examine_module, locate_package, options_slug

from .conftest import install_tiny_module

BOTH = ["scene", "event"]


@pytest.fixture
def tiny(import_folder):
    """A function that installs the tiny module, with code added at its end."""
    compatibility.embeddings_command()

    def install(addition=""):
        file = install_tiny_module(import_folder)
        file.write_text(file.read_text() + addition)
        return "tiny_hear"

    return install


def examine(module, kinds=BOTH, model=None, **options):
    return examine_module(module, model, options, kinds)


def test_module_that_keeps_the_api_passes(tiny, import_folder):
    facts = examine(tiny(), gain=2.0)
    assert (facts["name"], facts["sample_rate"], facts["slug"]) == ("tiny_hear", 22050, "-gain=2-0")
    assert facts["location"] == str(import_folder / "tiny_hear")
    json.dumps(facts)


def override(function, body):
    return f"\n_{function} = {function}\ndef {function}(audio, model):\n    {body}\n"


SCENE = "get_scene_embeddings"
TIME = "get_timestamp_embeddings"


@pytest.mark.parametrize(
    ("addition", "fault"),
    [
        (
            override(SCENE, f"return _{SCENE}(audio, model)[:, :-1]"),
            r"shape \(3, 31\).*of 32.*\(3, 32\)",
        ),
        (override(SCENE, f"return _{SCENE}(audio, model)[:1]"), r"shape \(1, 32\)"),
        (override(SCENE, f"return _{SCENE}(audio, model)[:, None]"), r"shape \(3, 1, 32\)"),
        (override(SCENE, f"return _{SCENE}(audio, model).double()"), "float64.*float32"),
        (override(SCENE, f"return _{SCENE}(audio, model) * float('nan')"), "NaN"),
        (override(SCENE, "raise ValueError('no\\nway')"), "noise, failed: ValueError: no way"),
        (override(TIME, f"return _{TIME}(audio, model)[0]"), "get_timestamp_embeddings.*failed"),
        (
            override(TIME, f"e, t = _{TIME}(audio, model); return e[:, 1:], t"),
            r"embeddings of shape",
        ),
        (override(TIME, f"e, t = _{TIME}(audio, model); return e, t[0]"), "timestamps of shape"),
        (
            override(TIME, f"e, t = _{TIME}(audio, model); return e[:, :1], t[:, :1]"),
            "timestamps of",
        ),
        (override(TIME, f"e, t = _{TIME}(audio, model); return e, t / 1000"), "seconds, it seems"),
        (override(TIME, f"e, t = _{TIME}(audio, model); return e, t + 50"), "within the sound"),
        (override(TIME, f"e, t = _{TIME}(audio, model); return e, t - 1"), "within the sound"),
        (override(TIME, f"e, t = _{TIME}(audio, model); return e, t.flip(1)"), "do not rise"),
        ("\nSAMPLE_RATE = '22050'\n", "sample_rate is '22050'"),
        ("\nSAMPLE_RATE = None\n", "sample_rate is None"),
        ("\nSAMPLE_RATE = -1\n", "sample_rate is -1"),
        ("\ndel load_model\n", "no function load_model"),
        ("\nget_scene_embeddings = 3\n", "no function get_scene_embeddings"),
        ("\nload_model = lambda: 3\n", r"load_model\(\) failed: TypeError: Unsupported model type"),
        ("\nimport no_such_package\n", "no_such_package is not installed"),
        ("\n1 / 0\n", "cannot be imported: ZeroDivisionError"),
        ("\n)\n", "cannot be imported: SyntaxError"),
    ],
)
def test_each_fault_is_told_in_one_line(tiny, addition, fault):
    with pytest.raises(InputError, match=fault) as caught:
        examine(tiny(addition))
    (line,) = caught.value.lines
    assert "\n" not in line
    assert "tiny_hear" in line


def test_options_that_load_model_does_not_know_are_told(tiny):
    with pytest.raises(InputError, match=r"load_model\(gian=2\) failed: TypeError.*gian"):
        examine(tiny(), gian=2)


def test_only_what_the_tasks_need_is_asked_of_a_module(tiny):
    module = tiny(f"\ndel {TIME}\n")
    assert examine(module, ["scene"])["sample_rate"] == 22050
    with pytest.raises(InputError, match=f"no function {TIME}"):
        examine(module, BOTH)


def test_user_warnings_of_load_model_are_passed_on(tiny):
    addition = (
        "\nimport warnings\n_load_model = load_model\ndef load_model(model_file_path='', gain=1.0):"
        "\n    warnings.warn('untrained')\n    warnings.warn('old', DeprecationWarning)"
        "\n    return _load_model(model_file_path, gain)\n"
    )
    assert examine(tiny(addition))["warnings"] == ["untrained"]


def test_code_digest_follows_every_file_of_the_package(tiny, import_folder):
    first = examine(tiny())["code"]
    assert examine("tiny_hear")["code"] == first
    weights = import_folder / "tiny_hear" / "weights.bin"
    weights.write_bytes(b"0")
    second = examine("tiny_hear")["code"]
    weights.write_bytes(b"1")
    assert len({first, second, examine("tiny_hear")["code"]}) == 3


def test_a_package_is_located_by_its_top(import_folder):
    deep = import_folder / "deep" / "models"
    deep.mkdir(parents=True)
    (import_folder / "deep" / "__init__.py").touch()
    (deep / "hear.py").touch()
    (import_folder / "flat.py").touch()
    import deep.models.hear
    import flat

    assert locate_package(deep.models.hear) == import_folder / "deep"
    assert locate_package(flat) == import_folder / "flat.py"


def test_slug_is_that_of_heareval():
    # the expression of embeddings/runner.py:60, literally
    from slugify import slugify

    options = {"hop_ms": 25, "Embedding": "a b/c", "x": [1.5, None]}
    expected = "-" + "-".join(f"{slugify(k)}={slugify(str(v))}" for k, v in options.items())
    assert options_slug(options) == expected
    assert options_slug({}) == ""
