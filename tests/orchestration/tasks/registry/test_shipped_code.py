"""The code in a version: complete, deterministic, and apart from that of other releases."""

import shutil
import zipfile

import mlflow
import pytest
from transformers import AutoTokenizer

from rlhf_core import ROOT
from rlhf_core.data.tokenizer import load_tokenizer
from tasks.registry import shipped_code
from tasks.registry.packaging import VersionRecords, build
from tasks.registry.shipped_code import imported_sources, write_code


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_equal_source_gives_equal_bytes_and_no_import_keeps_the_name_of_the_project(kind, tmp_path):
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        script, archive = write_code(kind, tmp_path / name)
        written.append((script.read_bytes(), archive.name, archive.read_bytes()))
    assert written[0] == written[1]
    with zipfile.ZipFile(archive) as file:
        texts = [file.read(name).decode() for name in file.namelist()] + [script.read_text()]
    assert not [text for text in texts if "from rlhf_core." in text or "import rlhf_core" in text]
    assert f"from {archive.stem}.data import render" in texts[-1]


def test_only_what_renders_and_loads_is_shipped():
    sources = imported_sources(ROOT / "mlflow" / "reward_model.py")
    assert {"data/render.py", "data/tokenizer.py", "modeling/classifier.py"} <= set(sources)
    assert len(sources) < 25 and not [path for path in sources if path.startswith("engine")]


def release(folder, changed: str):
    """Copy what is shipped as another release, with another default chat template."""
    for name in ("mlflow", "rlhf_core"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "rlhf_core" / "data" / "chat_template.py"
    text = file.read_text()
    file.write_text(text.replace("'<|assistant|>\\n' }}", changed))
    assert file.read_text() != text
    return folder


def test_versions_of_two_releases_in_one_process_render_each_as_its_own(
    reward_folder, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    shutil.copytree(reward_folder, folder)
    (folder / "chat_template.jinja").unlink()
    build("reward", folder, tmp_path / "ours", VersionRecords())
    monkeypatch.setattr(shipped_code, "ROOT", release(tmp_path / "release", "'w7' }}"))
    build("reward", folder, tmp_path / "theirs", VersionRecords())
    rows = [{"prompt": "w1", "chosen": "w2", "rejected": "w3"}]
    ours, theirs = (mlflow.pyfunc.load_model(str(tmp_path / name)) for name in ("ours", "theirs"))
    assert ours.predict(rows)["chosen_score"][0] != theirs.predict(rows)["chosen_score"][0]
    word = load_tokenizer(folder).convert_tokens_to_ids("w7")
    prompt = [{"role": "user", "content": "w1"}]
    assert word not in ours.unwrap_python_model()._ids(0, prompt, "w2")
    assert word in theirs.unwrap_python_model()._ids(0, prompt, "w2")


def test_a_renewed_version_has_the_code_of_its_new_release_alone(
    reward_folder, tmp_path, monkeypatch
):
    build("reward", reward_folder, tmp_path / "version", VersionRecords())
    (before,) = (tmp_path / "version").glob("*.zip")
    monkeypatch.setattr(shipped_code, "ROOT", release(tmp_path / "release", "'w7' }}"))
    build("reward", reward_folder, tmp_path / "version", VersionRecords())
    (after,) = (tmp_path / "version").glob("*.zip")
    assert before.name != after.name
    assert mlflow.pyfunc.load_model(str(tmp_path / "version")).input_example


DATED = (
    "{{ strftime_now('%d %b') }} {% for m in messages %}{{ m['role'] + ' ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ ' ' }}{% endfor %}"
)


def test_a_version_prints_the_date_of_its_records_and_no_other(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(folder)
    build("policy", folder, tmp_path / "version", VersionRecords(template_date="2025-01-31"))
    served = mlflow.pyfunc.load_model(str(tmp_path / "version")).unwrap_python_model()
    text = served.tokenizer.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert text.startswith("31 Jan user w1")
