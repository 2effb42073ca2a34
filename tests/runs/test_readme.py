"""What the README shows works as it stands there."""

import json
import re
from pathlib import Path

import yaml

from helpers.commands import alignkit
from helpers.models import make_policy

README = Path(__file__).parents[2] / "README.md"
SMALL = [
    "aligned.iterations=1",
    "aligned.batch_size=4",
    "aligned.sampling.max_length=8",
    "labels.sampling.max_length=8",
]


def test_the_recipe_in_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(blocks[0])
    assert yaml.safe_load(blocks[0])["vars"] == {"reward_source": "human"}
    make_policy().save(tmp_path / "model")
    with (tmp_path / "prompts.jsonl").open("w") as file:
        file.writelines(json.dumps({"prompt": f"the cat {n}"}) + "\n" for n in range(20))
    model = f"policy.path={tmp_path / 'model'}"
    paused = alignkit("run", "mine.yaml", model, *SMALL, cwd=tmp_path, status=3)
    assert "runs/mine/judgements" in paused.stderr
    alignkit("run", "mine.yaml", model, *SMALL, "name=other", "reward_source=simulated", cwd=tmp_path)
    assert (tmp_path / "runs/other/report.html").is_file()


def test_every_local_link_and_target_exists() -> None:
    text = README.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert not [link for link in links if not (README.parent / link).exists()]
    makefile = (README.parent / "Makefile").read_text()
    targets = set(re.findall(r"`?make ([a-z-]+)", text))
    assert targets >= {"quickstart", "test", "test-all"}
    assert not [t for t in targets if f"\n{t}:" not in makefile]
