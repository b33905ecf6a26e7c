import pytest

from sana_judge.vila.licence import licence_notice

CARD = "---\nlibrary_name: vila\nlicense: {}\n---\n# A judge\n"


@pytest.mark.parametrize("licence", ["cc-by-nc-4.0", "cc-by-nc-sa-4.0", '"CC-BY-NC-4.0"'])
def test_a_card_that_excludes_commercial_use_gives_a_notice(tmp_path, licence):
    (tmp_path / "README.md").write_text(CARD.format(licence))
    notice = licence_notice("someone/judge", tmp_path)
    assert notice is not None
    assert f"the weights of judge are licensed {licence.strip(chr(34))}: not for commercial use" in notice


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", "cc-by-4.0"])
def test_a_card_that_allows_it_gives_none(tmp_path, licence):
    (tmp_path / "README.md").write_text(CARD.format(licence))
    assert licence_notice("someone/NVILA-Lite-2B-Verifier", tmp_path) is None


def test_without_a_card_the_name_tells(tmp_path):
    notice = licence_notice("Efficient-Large-Model/NVILA-Lite-2B-Verifier", tmp_path)
    assert notice is not None
    assert "cc-by-nc-sa-4.0" in notice
    assert licence_notice("someone/judge", tmp_path) is None
