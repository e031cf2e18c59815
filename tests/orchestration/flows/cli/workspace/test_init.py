"""`rlhf init` says what it made and what comes next."""


def test_init_makes_a_project_and_names_its_files(rlhf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = rlhf("init", "my-team")
    assert code == 0 and "  recipe.toml\n" in out and "next: cd my-team, then pytest" in out
    assert (tmp_path / "my-team" / ".github" / "workflows" / "check.yaml").is_file()
    code, _, error = rlhf("init", "my-team")
    assert code == 2 and "my-team exists and holds files" in error
