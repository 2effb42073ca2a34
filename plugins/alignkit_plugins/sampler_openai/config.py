"""Options of the sampler `openai`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from alignkit.components import Config
from alignkit.recipe.model import Operational
from alignkit.servers.access import plain_address

# What is made here, from the prompt, from `sampling` or from other options; `echo` and `stream` change what comes back.
OWN = {"model", "prompt", "messages", "n", "best_of", "echo", "stream", "temperature", "top_p", "top_k", "max_tokens"}
OWN |= {"max_completion_tokens", "seed", "logprobs", "top_logprobs", "tools", "functions"}


class OpenAISamplerConfig(Config):
    """A server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, transformers serve, …) draws the completions."""

    base_url: str = Field(description="the server, for example http://localhost:8000/v1")
    model: str | None = Field(
        None, min_length=1, description="the server's name for the model; default: the only one that it lists"
    )
    api_key_env: Annotated[str | None, Operational()] = Field(
        None, description="name of the environment variable that holds the key; None for a server without keys"
    )
    mode: Literal["auto", "completions", "chat"] = Field(
        "auto",
        description="auto: conversations go to /chat/completions, plain texts as they are to /completions; chat: a "
        "plain text becomes a user's message; completions: conversations are an error",
    )
    n: bool = Field(
        True, description="ask for all completions of a prompt in one request (n); false: a request for each"
    )
    takes: tuple[Literal["seed", "top_k", "max_completion_tokens"], ...] = Field(
        ("seed",),
        description="fields that this server understands beside temperature, top_p and max_tokens. By their "
        "documentation vLLM, SGLang and llama.cpp take top_k; max_completion_tokens is "
        "sent in place of max_tokens to /chat/completions",
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="further fields of each request, for example {min_p: 0.0, stop: ['###']}; what a server has "
        "defaults of its own for (min_p, repetition_penalty) is as it says, unless it stands here",
    )
    concurrency: Annotated[int, Operational()] = Field(32, ge=1, le=1000, description="requests at a time")
    requests_per_minute: Annotated[float | None, Operational()] = Field(
        None, gt=0.0, description="send at most so many"
    )
    retries: Annotated[int, Operational()] = Field(
        5,
        ge=0,
        le=100,
        description="repetitions after 408, 409, 429, 5xx, lost connections, timeouts and answers that cannot be used",
    )
    timeout: Annotated[float, Operational()] = Field(600.0, gt=0.0, description="seconds to wait for an answer")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        return plain_address(value)

    @model_validator(mode="after")
    def _own_fields(self) -> Self:
        own = sorted(set(self.request) & OWN)
        if own:
            raise ValueError(f"request: {', '.join(own)} cannot be set here")
        return self
