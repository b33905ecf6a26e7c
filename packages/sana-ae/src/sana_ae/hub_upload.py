"""A saved model to the Hub: one commit, which also removes the weights of an earlier one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented, not marked as exported
from torch import Tensor

_CARD = "README.md"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # the form: which of them exist the Hub checks, and they become more


def upload(
    folder: Path,
    repo: str,
    *,
    card: str,
    weights: Sequence[str],
    licence: str | None,
    private: bool,
    token: str | None,
) -> str:
    """Uploads a folder and returns the URL of the commit.

    Args:
        folder: What `save_pretrained` wrote.
        repo: Hub id, owner/name; made if there is none.
        card: README.md for a repository that has none; of one that is there only the licence changes.
        weights: Patterns of the files that loading looks for: those of an earlier upload go.
        licence: Of the weights, as the Hub spells it; None says nothing.
        private: Whether nobody else may see it.
        token: Of the Hub; None is the one that `hf auth login` stored or HF_TOKEN names.

    Raises:
        ValueError: The name is no Hub id, the licence cannot be one, private is asked of a repository that is public,
            or it holds a whole pipeline.
        PermissionError: No token is set, or the Hub does not let it write there.
    """
    _check_words(repo, licence)
    api = HfApi(token=token)
    with _refusal_explained(repo, token):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(
                f"{repo} is public: make it private in its settings if it is yours, or publish under another name"
            )
        if api.file_exists(repo, "model_index.json"):
            raise ValueError(
                f"{repo} holds a pipeline, whose parts lie in folders: publish all of it, or give another name"
            )
        has_card = api.file_exists(repo, _CARD)
        if licence is not None or not has_card:
            text = ModelCard.load(repo, token=token) if has_card else ModelCard(card)
            if licence is not None:
                text.data["license"] = licence
            (folder / _CARD).write_text(str(text), encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Upload with sana-ae", delete_patterns=list(weights)
        )
    return str(commit.commit_url)


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError, with the names, where weights are NaN or infinite."""
    if bad := [name for name, weight in weights.items() if not _is_finite(weight)]:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"{', '.join(bad[:3])}{more} hold NaN or infinity: publish weights that are finite")


def _check_words(repo: str, licence: str | None) -> None:
    if repo.count("/") != 1:
        raise ValueError(f"repo is {repo!r}; a Hub id is owner/name")
    validate_repo_id(repo)  # its HFValidationError is a ValueError
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ValueError(
            f"licence is {licence!r}; give it as the Hub spells it, such as apache-2.0 or gemma: "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )


@contextmanager
def _refusal_explained(repo: str, token: str | None) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code not in (401, 403):
            raise
        if token is None and get_token() is None:
            raise PermissionError(
                f"no token is set, and {repo} cannot be written without one: `hf auth login`"
            ) from error
        raise PermissionError(
            f"the Hub does not let this token write to {repo}: log in with `hf auth login` with a token that may"
        ) from error


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point():
        return True
    narrow = weight.element_size() < 2  # float8 knows no isfinite
    return bool((weight.float() if narrow else weight).isfinite().all())
