import logging

from clip4vla.common.log import log


def test_warnings_are_marked_and_progress_is_plain(capsys):
    log.info("12 of 30: 40 %")
    log.warning("%s: not verified", "a\n.json")
    printed = capsys.readouterr()
    assert printed.err == "12 of 30: 40 %\nclip4vla: warning: a\\n.json: not verified\n"
    assert printed.out == ""


def test_a_configured_root_logger_prints_no_line_twice(capsys):
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        log.warning("once")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err.count("once") == 1
