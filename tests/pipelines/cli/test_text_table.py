from rlhf_pipelines.cli.text_table import text_table

ROWS = [("MODEL", "ALIASES", "CREATED"), ("plantation", "default, champion", "2026-01-02 03:04")]


def test_narrow_terminal_gets_cells_of_several_lines() -> None:
    assert text_table(ROWS, columns=40).split("\n") == [
        "MODEL       ALIASES       CREATED",
        "plantation  default,      2026-01-02",
        "            champion      03:04",
    ]


def test_words_stay_whole_however_narrow_the_terminal() -> None:
    assert text_table(ROWS, columns=30) == text_table(ROWS, columns=1000)


def test_a_pipe_gets_whole_lines_whatever_terminal_is_at_its_end(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert text_table(ROWS) == text_table(ROWS, columns=1000)


def test_cells_are_shown_as_they_are_and_cannot_move_the_cursor() -> None:
    assert text_table([("NAME", "STATE"), ("[bold]\x1b[2Ja\nb", ":smile:")], columns=80).split("\n") == [
        "NAME          STATE",
        "[bold][2Ja b  :smile:",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert text_table([("MODEL", "VERSION"), ("奖励模型", "1")], columns=80).split("\n")[1] == "奖励模型  1"
