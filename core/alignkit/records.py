"""The records that move between steps: frozen, persistent, the same for human and AI feedback.

A prompt or completion is either plain text or a tuple of chat messages, as in TRL's standard and conversational forms.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator


class Record(BaseModel):
    """Base of all records: frozen, unknown fields are errors."""

    # defer_build: many commands import the records and make none.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Message(Record):
    """One turn of a conversation."""

    role: str
    content: str


Content = str | tuple[Message, ...]


def content_id(*parts: Content) -> str:
    """A stable id of 16 hex digits for texts or conversations, the same in every process."""
    plain = [p if isinstance(p, str) else [m.model_dump() for m in p] for p in parts]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()[:16]


def plain_text(content: Content) -> str:
    """Text for people and for reward sources with another tokenizer: messages become `role: content` lines."""
    if isinstance(content, str):
        return content
    return "\n".join(f"{m.role}: {m.content}" for m in content)


class Text(Record):
    """A document for language-model pretraining."""

    text: str


class Prompt(Record):
    """What the policy is asked to continue or answer."""

    prompt: Content
    id: str = ""

    @model_validator(mode="before")
    @classmethod
    def _default_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("id") and isinstance(data.get("prompt"), str | tuple | list):
            prompt = data["prompt"]
            whole = prompt if isinstance(prompt, str) else tuple(Message.model_validate(m) for m in prompt)
            data = {**data, "id": content_id(whole)}
        return data


class Demonstration(Record):
    """A prompt with the completion to imitate (SFT)."""

    prompt: Content
    completion: Content


class LabelledCompletion(Record):
    """A prompt with a completion that is good or bad, not compared with another one (KTO, Ethayarajh et al. 2024)."""

    prompt: Content
    completion: Content
    label: bool
    weight: float = Field(1.0, ge=0.0)


FinishReason = Literal["stop", "length"]


class Sampling(Record):
    """How completions are drawn. `max_length` counts completion tokens."""

    temperature: float = Field(1.0, ge=0.0, le=100.0, description="0 is greedy decoding")
    top_k: int = Field(0, ge=0, description="keep the k most probable tokens; 0 keeps all")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="keep the smallest set with this probability; 1 keeps all")
    max_length: int = Field(64, ge=1, description="completion tokens at most")
    max_words: int | None = Field(
        None,
        ge=1,
        description="stop before the token that begins word max_words + 1 (words are split at white space)",
    )


class Candidate(Record):
    """One sampled completion, with everything needed to sample or train on it again.

    Of a sampler that has texts only there are no ids, and `policy_revision` is what its server says that it serves.
    """

    id: str
    prompt_id: str
    prompt: Content
    completion: str
    policy_revision: str
    sampling: Sampling
    seed: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    finish_reason: FinishReason


class Annotator(Record):
    """Who judged: a person, a model or a program (simulated)."""

    id: str
    kind: Literal["human", "model", "program"]
    revision: str = ""


class Task(Record):
    """A question to annotators: these candidates, judged by `overlap` of them."""

    id: str
    prompt: Content
    candidates: tuple[Candidate, ...]
    overlap: int = Field(1, ge=1)
    gold: "Payload | None" = None


class _Payload(Record):
    """Base of what a judgement says. `type` tells the forms apart, so it is written even though it is a default."""

    @model_serializer(mode="wrap")
    def _with_type(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"type": type(self).model_fields["type"].default, **handler(self)}


class Ranking(_Payload):
    """Candidate ids from best to worst, in groups; ids in one group are tied."""

    type: Literal["ranking"] = "ranking"
    groups: tuple[tuple[str, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        flat = [c for group in self.groups for c in group]
        if len(set(flat)) != len(flat) or not all(self.groups):
            raise ValueError("each candidate must stand in one group, and no group may be empty")
        return self


class Pairwise(_Payload):
    """`p_a`: probability that candidate `a` is better than `b`; 0.5 is a tie."""

    type: Literal["pairwise"] = "pairwise"
    a: str
    b: str
    p_a: float = Field(ge=0.0, le=1.0)


class Rating(_Payload):
    """One candidate on a scale."""

    type: Literal["rating"] = "rating"
    candidate: str
    value: float
    low: float = 1.0
    high: float = 7.0


class Binary(_Payload):
    """Good or bad."""

    type: Literal["binary"] = "binary"
    candidate: str
    good: bool


class Critique(_Payload):
    """Words on one candidate, with an optional better version of it."""

    type: Literal["critique"] = "critique"
    candidate: str
    text: str
    revision: str | None = None


Payload = Annotated[Ranking | Pairwise | Rating | Binary | Critique, Field(discriminator="type")]


class Evidence(Record):
    """How a model came to its judgement: probabilities in both orders, and how much of its mass was on the labels."""

    p_given: float | None = Field(None, ge=0.0, le=1.0, description="p_a with candidate a shown first")
    p_swapped: float | None = Field(None, ge=0.0, le=1.0, description="p_a with candidate a shown second")
    label_mass: float | None = Field(
        None, ge=0.0, description="probability on all labels together, lowest of the orders; low: it did not answer"
    )
    principle: str = Field("", description="the principle of the constitution that it was asked to apply")
    template: str = Field("", description="hash of the prompt's template")
    text: str = Field("", description="what it wrote, or the error")


class Judgement(Record):
    """One answer of one annotator to one task. Append-only: an edit is a new judgement that supersedes."""

    id: str
    task_id: str
    annotator: Annotator
    payload: Payload | None = None
    presented_order: tuple[str, ...] = ()
    status: Literal["ok", "skipped", "flagged", "parse_error", "refusal", "api_error"] = "ok"
    supersedes: str | None = None
    evidence: Evidence | None = None

    @model_validator(mode="after")
    def _payload_only_when_ok(self) -> Self:
        if (self.payload is None) == (self.status == "ok"):
            raise ValueError("a judgement with status 'ok' has a payload, any other status has none")
        return self


class Instructions(Record):
    """What annotators are told about the tasks of a collection."""

    question: str = Field("", description="one line above every task; empty: the form's own words")
    guidelines: str = Field("", description="markdown that an annotator acknowledges before his first task")
    rating_low: int = Field(1, description="the lower end of the rating scale")
    rating_high: int = Field(7, description="the upper end of the rating scale")

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if not 1 <= self.rating_high - self.rating_low <= 9:
            raise ValueError("a rating scale has 2 to 10 steps")
        return self


class PreferencePair(Record):
    """`chosen` is preferred over `rejected` with probability `p`.

    Pairs with the same `group` come from one prompt and stay in one batch element; `weight` is usually
    1/#pairs of the group (InstructGPT, Ouyang et al. 2022, section 3.5).
    """

    prompt: Content
    chosen: Content
    rejected: Content
    p: float = Field(1.0, ge=0.0, le=1.0)
    weight: float = Field(1.0, ge=0.0)
    margin: float = 0.0
    group: str = ""


Task.model_rebuild()
