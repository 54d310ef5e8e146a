"""The benchmark of starts times no program that fails."""

import pytest
import start_up


def test_programs_end_as_they_should():
    start_up.python("-c", "")()
    start_up.python("-c", "raise SystemExit(3)", code=3)()


@pytest.mark.parametrize("arguments, code, found", [(("-c", "\n1 / 0"), 0, 1), (("-c", ""), 78, 0)])
def test_another_exit_code_ends_the_benchmark_with_one_line(arguments, code, found):
    with pytest.raises(SystemExit) as error:
        start_up.python(*arguments, code=code)()
    assert error.value.code == f"python {list(arguments)}: exit code {found} instead of {code}"
    assert "\n" not in error.value.code
