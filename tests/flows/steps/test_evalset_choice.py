"""Which evaluation set a retraining measures on, when the set of the champion is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.steps.evaluation import choose_evalset
from flows.steps.line import Prepared, Run
from mmface import plan
from mmface.bundles import registry
from mmface.config.load import load_recipe
from mmface.errors import DatasetError
from tests.flows.releases import NAME


def test_a_deleted_set_of_the_champion_is_not_chosen_again(run: Run, tmp_path: Path) -> None:
    """Other rows under the same name would make months of figures incomparable without a word."""
    identity = plan.evalset(run.recipe)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "lineage.json").write_text(json.dumps({"evalset": {"dataset": identity.key}}))
    version = registry.register_bundle(tmp_path / "bundle", registry.start_run("r"))
    nowhere = Prepared("images", "conditions", "captions", "text", {})

    registry.set_alias(NAME, "champion", version)
    with pytest.raises(DatasetError, match=f"version {version} of {NAME} was measured on the set v1") as refused:
        choose_evalset(run, nowhere)
    assert refused.value.field == "evaluate.set"
    assert f"restore {identity.key}, or choose other rows under a new name" in str(refused.value)
    assert run.made == []

    other = Run(load_recipe("demo", ["evaluate.set=v2"]), run.recipe_uri, run.home, None, "", looks_up="evaluate")
    with pytest.raises(DatasetError) as asked:  # a new name is not refused: the stage itself is looked for
        choose_evalset(other, nowhere)
    assert asked.value.field != "evaluate.set"
