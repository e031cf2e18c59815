"""`rlhf init` says what it made and what comes next."""

from command_line import rlhf_exit_code


def test_init_makes_a_project_and_names_its_files(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert rlhf_exit_code("init", "my-team") == 0
    out = capfd.readouterr().out
    assert "  recipe.toml\n" in out and "next: cd my-team, then rlhf validate" in out
    assert (tmp_path / "my-team" / ".github" / "workflows" / "check.yaml").is_file()
    assert rlhf_exit_code("init", "my-team") == 2
    assert "my-team exists and holds files" in capfd.readouterr().err
