# ruff: noqa: E501 - a table
"""Bad commands."""

from collections.abc import Iterator
from typing import Any

from bad_calls_world import BadCall, World

ONE = ["--model", "mini-llama-base", "--tasks", "mini_film,mini_food"]
SHORT = ["--limit", 4, "--test-limit", 2]
COMMANDS: dict[str, list[Any]] = {
    "detect": [*ONE, "--limit", 4, "--out", "OUT"],
    "deactivate": [*ONE, *SHORT, "--controls", 1, "--out", "OUT"],
    "finetune": [*ONE, *SHORT, "--steps", 1, "--out", "OUT.safetensors"],
    "continual": [*ONE, *SHORT, "--steps", 1, "--out", "OUT"],
    "plan": [*ONE, "--limit", 4],
    "info": ["--data", "mini"],
    "reproduce": ["--model", "mini-llama", "--preset", "smoke", "--out", "OUT"],
    "find": [*ONE, "--limit", 4, "--out", "OUT"],
    "curves": [*ONE, "--limit", 4, "--out", "OUT"],
    "generate": [*ONE, "--limit", 4, "--examples", 1, "--max-new-tokens", 2],
}
SOURCE = {
    "--model": ["mini-lama", "", "/not/there", "gtp2"],
    "--kind": ["hook"],
    "--dtype": ["float8"],
    "--device": ["gpu", "cuda", "cuda:99", "xpu", "3"],
    "--tasks": ["mini_filn", "", ","],
    "--data": ["nowhere", "hub:sst3", "NOTES"],
}
NUMBER = ["0", "-1", "2.5", "three", "nan"]
SHARE = ["0", "-0.1", "1.5", "nan", "ten"]
SEED = ["-1", str(2**70), "1.5", "x"]
ASKED = {"--metric": ["los", ""], "--ablation": ["zer", ""], "--positions": ["al", "1:x", ""],
         "--layers": ["x", "-1", "5-2", "0-999999999999"]}  # fmt: skip
OPTIONS: dict[str, dict[str, list[str]]] = {
    "detect": {**SOURCE, "--method": ["grad_akt", "exact", ""], "--fraction": SHARE, "--seed": SEED,
               "--selection": ["plian", "", ","], "--limit": NUMBER, "--shots": ["-1", "x", "1.5"]},
    "deactivate": {"--controls": NUMBER, "--test-limit": NUMBER, "--seed": SEED,
                   "--ablation": ["means"], "--max-new-tokens": NUMBER, "--fraction": SHARE},
    "finetune": {**SOURCE, "--lr": ["0", "-1", "nan", "x"], "--steps": NUMBER, "--epochs": ["0", "-1", "x"],
                 "--batch-size": NUMBER, "--fraction": SHARE, "--method": ["grad_akt"], "--seed": SEED,
                 "--selection": ["plian"], "--neurons": ["nowhere"], "--limit": NUMBER,
                 "--test-limit": NUMBER, "--shots": ["-1", "x"], "--schedule": ["cosin"],
                 "--validation": ["1", "-0.1"], "--patience": ["0", "3"]},
    "continual": {"--method": ["ncfd", "", ","], "--order": ["order9"], "--fraction": SHARE,
                  "--steps": NUMBER, "--lr": ["0", "x"], "--score-limit": NUMBER, "--limit": NUMBER,
                  "--test-limit": NUMBER, "--seed": SEED, "--batch-size": NUMBER, "--shots": ["-1"],
                  "--tasks": ["mini_filn"]},
    "plan": {"--model": SOURCE["--model"], "--tasks": SOURCE["--tasks"], "--limit": NUMBER,
             "--steps": NUMBER, "--batch-size": NUMBER, "--fraction": SHARE, "--token-budget": NUMBER,
             "--shots": ["-1"], "--device": ["gpu", "cuda"]},
    "info": {"--model": SOURCE["--model"][:1] + SOURCE["--model"][2:], "--data": SOURCE["--data"],
             "--tasks": ["mini_filn"], "--device": ["gpu"]},
    "reproduce": {"--model": SOURCE["--model"], "--preset": ["smok"], "--only": ["", ",", "table99"],
                  "--workers": NUMBER, "--seeds": SEED, "--shares": SHARE, "--rates": ["0", "-1", "x"],
                  "--steps": NUMBER, "--batch-size": NUMBER, "--train": NUMBER, "--test": NUMBER,
                  "--shots": ["-1"], "--orders": ["order9"], "--methods": ["ncfd"], "--tasks": ["nine"],
                  "--device": ["cuda"], "--tuned": ["nothing"]},
    "find": {**SOURCE, **ASKED, "--goal": SHARE, "--budget": NUMBER, "--harm": ["-1", "nan", "x"],
             "--limit": NUMBER, "--shots": ["-1", "x"]},
    "curves": {**SOURCE, **ASKED, "--limit": NUMBER, "--shots": ["-1", "x"]},
    "generate": {**ASKED, "--neurons": ["nowhere", "NOTES"], "--fraction": SHARE, "--examples": NUMBER,
                 "--max-new-tokens": NUMBER, "--limit": NUMBER, "--selection": ["plian"]},
}  # fmt: skip
WHOLE: list[tuple[list[Any], tuple[str, ...]]] = [
    ([], ("COMMAND",)), (["detct"], ("detct", "detect")), (["--debugg"], ("--debugg",)),
    (["detect"], ("--tasks",)), (["detect", *ONE], ("--out",)), (["detect", *ONE, "--out"], ("--out",)),
    (["detect", *ONE, "--out", "NOTES"], ("notes.txt",)), (["detect", *ONE, "--ou", "OUT"], ("--ou",)),
    (["detect", *ONE, "--out", "OUT", "more"], ("more",)),
    (["finetune", *ONE, "--out", "NOTES"], ("notes.txt", "exists")),
    (["apply"], ("--delta",)), (["apply", "--delta", "nowhere.safetensors"], ("nowhere",)),
    (["apply", "--delta", "NOTES"], ("notes.txt",)), (["merge", "--delta", "NOTES"], ("--model",)),
    (["merge", "--delta", "NOTES", "--model", "mini-llama", "--out", "OUT"], ("notes.txt",)),
    (["merge", "--delta", "nowhere", "--model", "mini-llama", "--out", "OUT"], ("nowhere",)),
    (["report"], ("RUN_DIR",)), (["report", "nowhere"], ("nowhere",)), (["report", "NOTES"], ("notes.txt",)),
    (["report", "nowhere", "--device", "cuda"], ("cuda",)), (["report", "nowhere", "--neurons", "x"], ("x",)),
    (["detect", *ONE, "--out", "OUT", "--plugin", "not_there"], ("not_there",)),
    (["detect", *ONE, "--out", "OUT", "--plugin", ".x"], (".x",)),
    (["detect", "--model", "mini-llama-base", "--tasks", "mini_film", "--selection", "exclusive", "--out",
      "OUT"], ("exclusive", "two")),
    (["continual", "--model", "mini-llama-base", "--out", "OUT"], ("--order", "--tasks")),
    (["export"], ("FOLDER",)), (["export", "nowhere", "--out", "n.json"], ("nowhere",)),
    (["export", "NOTES", "--out", "n.json"], ("notes.txt",)), (["export", "NOTES", "--out", "n.txt"], ("n.txt",)),
    (["export", "NOTES", "--out", "NOTES"], ("notes.txt",)), (["overlap"], ("SETS",)),
    (["overlap", "nowhere"], ("nowhere",)), (["overlap", "NOTES", "NOTES"], ("notes.txt",)),
    (["find", "--model", "mini-llama", "--tasks", "mini_film", "--out", "OUT"], ("--tasks", "2")),
    (["find", *ONE, "--out", "NOTES"], ("notes.txt",)), (["generate", *ONE, "--out", "NOTES"], ("notes.txt",)),
    (["continual", *ONE, "--order", "mini1", "--out", "OUT"], ("--order", "--tasks")),
]  # fmt: skip


def typed(words: list[Any], *needs: str) -> BadCall:
    """A command; OUT and NOTES in it stand for a new folder and a text file."""

    def make(world: World) -> list[Any]:
        out = world.new_folder()
        places = {"OUT": out, "NOTES": world.text, "OUT.safetensors": out / "out.safetensors"}
        return [places.get(word, word) for word in words]

    text = " ".join(str(word) or "''" for word in words)
    return BadCall(
        f"tl-taskneurons {words[0] if words else ''}".strip(), text, needs, make, shell=True
    )


def commands() -> Iterator[BadCall]:
    """Every bad command."""
    for command, options in OPTIONS.items():
        for option, texts in options.items():
            base = list(COMMANDS[command])
            for known in (option, *(["--tasks"] if option == "--order" else [])):
                if known in base:
                    place = base.index(known)
                    del base[place : place + 2]
            for text in texts:
                named = text.removeprefix("hub:") if text.strip(",") else option.strip("-")
                needs = "notes.txt" if text == "NOTES" else named
                yield typed([command, *base, option, text], needs)
    for words, needs in WHOLE:
        yield typed(words, *needs)
