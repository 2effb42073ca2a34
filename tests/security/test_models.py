"""Model folders of strangers: nothing is unpickled and no code in them runs, whichever way they are named."""

import io
import json
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit import UserError
from alignkit.cli import main
from alignkit.manager import PluginManager
from alignkit.modeling import folders
from alignkit.modeling.scorer import SequenceScorer
from alignkit.recipe import ComponentSpec
from alignkit.recipe.check import resolve
from helpers.context import make_context
from helpers.models import make_policy, make_scorer, make_tokenizer

CODE = "from pathlib import Path\nPath({!r}).write_text('ran')\n"
MODELING = "class Model:\n    pass\nclass Config:\n    pass\nclass Tok:\n    pass\n"


class _Planted:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def planted(mark: Path) -> bytes:
    """A pickle as `torch.save` writes it, that makes the file `mark` when it is read."""
    buffer = io.BytesIO()
    torch.save({"weight": _Planted(mark)}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("saved")
    make_policy().save(place / "policy")
    make_scorer(place / "base").save(place / "reward")
    return place


@pytest.fixture
def copies(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "models")
    return tmp_path / "models"


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def only_pickle(folder: Path, pickled: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickled)


def other_safetensors_beside_pickle(folder: Path, pickled: bytes) -> None:
    (folder / "model.safetensors").rename(folder / "optimizer.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickled)


def pickle_under_the_name(folder: Path, pickled: bytes) -> None:
    (folder / "model.safetensors").write_bytes(pickled)


def index_to_pickle(folder: Path, pickled: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "shard.bin").write_bytes(pickled)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_to_elsewhere(folder: Path, pickled: bytes) -> None:
    (folder / "model.safetensors").rename(folder.parent / "shard.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../shard.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def named_in_the_config(folder: Path, pickled: bytes) -> None:
    (folder / "adapter_model.bin").write_bytes(pickled)
    change_json(folder / "config.json", transformers_weights="adapter_model.bin")


def adapter(folder: Path, pickled: bytes) -> None:
    (folder / "adapter_model.bin").write_bytes(pickled)
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


PICKLED: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "only a pickle": (only_pickle, r"no safetensors weights, only pytorch_model\.bin"),
    "other safetensors beside a pickle": (other_safetensors_beside_pickle, "no safetensors weights"),
    "a pickle with the right name": (pickle_under_the_name, "damaged"),
    "an index to a pickle": (index_to_pickle, r"names 'shard\.bin'"),
    "an index to elsewhere": (index_to_elsewhere, r"names '\.\./shard\.safetensors'"),
    "a pickle named in the config": (named_in_the_config, "transformers_weights is 'adapter_model.bin'"),
    "an adapter": (adapter, "holds an adapter"),
}


def as_policy(folder: Path) -> None:
    make_context(folder.parent, manager=_manager()).build("policy", ComponentSpec(name="causal_lm", path=str(folder)))


def as_lora_policy(folder: Path) -> None:
    make_context(folder.parent, manager=_manager()).build(
        "policy", ComponentSpec(name="causal_lm", path=str(folder), lora={})
    )


def as_reward_model(folder: Path) -> None:
    SequenceScorer.load(str(folder), torch.device("cpu"))


def as_critic(folder: Path) -> None:
    make_policy().critic(folder)


def as_tokenizer(folder: Path) -> None:
    folders.load(AutoTokenizer, str(folder))


def as_local_judge(folder: Path) -> None:
    context = make_context(folder.parent, manager=_manager())
    context.build("reward_source", ComponentSpec(name="ai", judge="local", model=str(folder)))


def checked(kind: Any, **options: Any) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        filled = {k: str(folder) if v is ... else v for k, v in options.items()}
        resolve(_manager(), kind, ComponentSpec(**filled), allowed=frozenset())

    return check


def _manager() -> PluginManager:
    manager = PluginManager()
    manager.load()
    return manager


USES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "policy": ("policy", as_policy),
    "policy with LoRA": ("policy", as_lora_policy),
    "reward model": ("reward", as_reward_model),
    "critic_init": ("reward", as_critic),
    "tokenizer": ("policy", as_tokenizer),
    "local judge": ("policy", as_local_judge),
    "check of a policy": ("policy", checked("policy", name="causal_lm", path=...)),
    "check of a reward model": ("reward", checked("reward_source", name="reward_model", model=...)),
    "check of a judge": ("policy", checked("reward_source", name="ai", judge="local", model=...)),
}


@pytest.mark.parametrize("case", PICKLED)
@pytest.mark.parametrize("use", USES)
def test_pickles_are_refused_with_advice_and_never_read(use: str, case: str, copies: Path, tmp_path: Path) -> None:
    kind, load = USES[use]
    plant, message = PICKLED[case]
    mark = tmp_path / "ran"
    plant(copies / kind, planted(mark))
    with pytest.raises(UserError, match=message) as caught:
        load(copies / kind)
    assert not mark.exists(), "the pickle was read"
    assert caught.value.hint


def test_the_planted_pickle_works(tmp_path: Path) -> None:
    torch.load(io.BytesIO(planted(tmp_path / "ran")), weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("use", USES)
def test_pickles_that_only_lie_there_are_not_read(use: str, copies: Path, tmp_path: Path) -> None:
    kind, load = USES[use]
    mark = tmp_path / "ran"
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "tokenizer.pkl", "vocab.bin"):
        (copies / kind / name).write_bytes(planted(mark))
    (copies / kind / "plain.pkl").write_bytes(pickle.dumps(_Planted(mark)))
    load(copies / kind)
    assert not mark.exists()


def test_what_has_a_hub_name_is_not_unpickled_either(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        @staticmethod
        def from_pretrained(path: str, **options: Any) -> Any:
            assert options["use_safetensors"] is True
            assert options["trust_remote_code"] is False
            return torch.load(io.BytesIO(b""))

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda path, **options: None)
    before = torch.load
    with pytest.raises(UserError, match="pickle file, which is not read"):
        folders.load_model(Hub, "owner/name")
    assert torch.load is before


def auto_map(folder: Path, mark: Path, known: bool) -> None:
    """Code beside the weights, which the configs name. `known`: of a type that transformers has as well."""
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE.format(str(mark)) + MODELING)
    models = ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    named = {"AutoConfig": "configuration_evil.Config", **dict.fromkeys(models, "modeling_evil.Model")}
    change_json(folder / "config.json", auto_map=named, **({} if known else {"model_type": "evil"}))
    tokenizer = {"AutoTokenizer": ["tokenization_evil.Tok", "tokenization_evil.Tok"]}
    change_json(folder / "tokenizer_config.json", auto_map=tokenizer, **({} if known else {"tokenizer_class": "Tok"}))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("use", USES)
def test_code_in_a_model_folder_does_not_run(
    use: str, known: bool, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, load = USES[use]
    mark = tmp_path / "ran"
    auto_map(copies / kind, mark, known)
    # If transformers asked whether it may, this is what a user would answer in passing.
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\ny\n"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with nullcontext() if known else suppress(UserError):
        load(copies / kind)
    assert not mark.exists(), "the code ran"


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_a_hub_are_not_fetched_for_a_config(key: str, copies: Path) -> None:
    change_json(copies / "policy" / "config.json", **{key: "stranger/attention"})
    with pytest.raises(UserError, match="names code of a hub"):
        as_policy(copies / "policy")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_chat_template_reaches_no_python(
    template: str, copies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (copies / "policy" / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat template refuses"):
        as_policy(copies / "policy")
    assert not (tmp_path / "ran").exists()


CONFIGS: dict[str, dict[str, Any]] = {
    "no heads": {"num_attention_heads": 0},
    "text as size": {"hidden_size": "x"},
    "negative": {"num_hidden_layers": -1, "vocab_size": -5},
    "unknown type": {"model_type": "../../etc"},
    "no type": {"model_type": None, "architectures": None},
    "list as config": {"rope_parameters": []},
    "end token": {"eos_token_id": "x"},
    "end tokens": {"eos_token_id": [None]},
    "dtype": {"dtype": "__class__", "torch_dtype": "load"},
    "quantised": {"quantization_config": {"quant_method": "os.system"}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_strange_config_is_the_users_error(case: str, copies: Path) -> None:
    change_json(copies / "policy" / "config.json", **CONFIGS[case])
    (copies / "policy" / "generation_config.json").unlink(missing_ok=True)
    with suppress(UserError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_policy(copies / "policy")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "1" * 10_000, "\ufeff{}", '{"a": NaN']
)
def test_a_damaged_config_is_found(text: str, copies: Path) -> None:
    (copies / "policy" / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"damaged|no model"):
        folders.check_model_path(str(copies / "policy"))


@pytest.mark.parametrize("path", ["~nobody-here/model", "/" + "a" * 300, "./" + "b/" * 3000])
def test_names_that_no_file_system_has(path: str) -> None:
    with pytest.raises(UserError, match=r"no such model folder|cannot look for"):
        folders.check_model_path(path)


def test_sample_reads_no_pickle(copies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only_pickle(copies / "policy", planted(tmp_path / "ran"))
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(copies / "policy"), "--prompt", "x"])
    assert stop.value.code == 2
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_sound_folder_is_loaded(copies: Path) -> None:
    folders.load_model(AutoModelForCausalLM, str(copies / "policy"))
    make_policy(tokenizer=make_tokenizer()).save(copies / "again")
    as_policy(copies / "again")


def test_scripts_of_hub_data_sets_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `owner/name` with a loading script, as hubs had them: `datasets` is not asked to trust it."""
    import inspect

    import datasets

    from alignkit.data.sources import read_rows

    assert "trust_remote_code" not in inspect.signature(datasets.load_dataset).parameters
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "owner" / "name" / "name.py"
    script.parent.mkdir(parents=True)
    script.write_text(CODE.format(str(tmp_path / "ran")))
    with pytest.raises(UserError):
        list(read_rows("owner/name"))
    with pytest.raises(UserError):
        list(read_rows("other/name"))
    assert not (tmp_path / "ran").exists()
