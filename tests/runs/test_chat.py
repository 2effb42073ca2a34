"""recipes/chat.yaml with local paths: a small chat model made here, hh-style rows written here."""

import gzip
import json
from pathlib import Path

from helpers.commands import alignkit

TOPICS = ["soup", "tea", "bread", "rain", "chess", "maps", "bees", "boats", "songs", "clocks", "hats", "kites"]


def write_rows(path: Path) -> None:
    """Transcripts of one or two turns; one row has differing contexts and one an empty answer."""
    rows = []
    for i in range(60):
        topic, other = TOPICS[i % 12], TOPICS[(i * 5 + 1) % 12]
        start = f"\n\nHuman: Tell me about {topic} and {other}, number {i}.\n\nAssistant:"
        if i % 3 == 0:
            start += f" Gladly.\n\nHuman: And what of {other}?\n\nAssistant:"
        rows.append(
            {"chosen": f"{start} {topic} is lovely with {other}.", "rejected": f"{start} I do not know {topic}."}
        )
    rows[7]["chosen"] = rows[7]["chosen"].replace("number 7", "number 8")
    rows[9]["rejected"] = rows[9]["rejected"].rpartition("Assistant:")[0] + "Assistant:"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows)


def test_chat_recipe_runs_with_local_paths(tmp_path: Path) -> None:
    data = tmp_path / "talk.jsonl.gz"
    write_rows(data)
    alignkit(
        "run", "chat_model", f"data={data}", "policy.init.preset=nano", "policy.tokenizer.vocab_size=400", cwd=tmp_path
    )
    model = "runs/chat_model/r1/02-base/model"
    small = ["answer_length=12", "data.heldout=0.2", "aligned.iterations=2", "aligned.batch_size=8", "max_length=128"]
    alignkit("run", "chat", f"data={data}", f"model={model}", *small, cwd=tmp_path)
    summary = json.loads((tmp_path / "runs/chat/summary.json").read_text())
    assert summary["data"]["data"]["rejected"] == 2
    assert (tmp_path / "runs/chat/r1/01-data/rejected.jsonl").is_file()
    assert 0 <= summary["reward_model"]["accuracy"] <= 1
    assert summary["policy"]["win_rate"]["n"] > 5
    out = alignkit("sample", "runs/chat/r1/04-aligned/model", "--prompt", "Tell me about tea", "--json", cwd=tmp_path)
    assert json.loads(out.stdout)["prompt"].startswith("user: ")
