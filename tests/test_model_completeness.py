"""Which files a model cannot be without."""

import pytest

from sana.publishing.model_completeness import missing_files
from sana_dit.caption_files import VOCABULARIES


@pytest.mark.parametrize("prefix", ["", "tokenizer/"])
def test_a_tokenizer_without_a_vocabulary_is_not_complete(tmp_path, prefix):
    names = {f"{prefix}tokenizer_config.json", "elsewhere/tokenizer.json"}
    [problem] = missing_files(tmp_path, names)
    assert problem.startswith(f"{prefix}tokenizer_config.json has no vocabulary (tokenizer.json, ")
    for vocabulary in VOCABULARIES:
        assert not list(missing_files(tmp_path, names | {prefix + vocabulary}))
