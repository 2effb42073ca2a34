"""Fixtures that many tests share. Models are random and tiny; nothing is read from a hub."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Times differ on a busy machine, and what fails today has to fail tomorrow.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

# What a shell starts in the background ignores Ctrl-C, and with nohup SIGHUP; what tests start would inherit that.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level BPE with a start token and distinct pad, end and extra stop tokens."""
    from helpers.models import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """The same vocabulary with a ChatML template; eos is not the turn's end."""
    from helpers.models import make_tokenizer

    return make_tokenizer(chat=True)


@pytest.fixture(params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    """A fresh random policy of each architecture."""
    from helpers.models import make_policy

    return make_policy(request.param, tokenizer)


@pytest.fixture
def llama(tokenizer: Any) -> Any:
    """A fresh random Llama."""
    from helpers.models import make_policy

    return make_policy("llama", tokenizer)


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """A step context without a run."""
    from helpers.context import make_context

    return make_context(tmp_path)
