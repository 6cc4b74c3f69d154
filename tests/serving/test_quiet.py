"""What silences a process for a while gives it its voice back, whatever overlaps."""

import contextlib
import logging
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from smt.serving.quiet import quiet


def speak(text: str) -> None:
    print(text)
    logging.getLogger("torch").warning(text)
    warnings.warn(text, stacklevel=1)


def test_nothing_is_heard_inside_and_all_of_it_behind(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    with quiet(), quiet():
        speak("inside")
        logging.getLogger("torch").error("an error is no note")
    speak("behind")
    assert capsys.readouterr().out == "behind\n"
    assert [record.message for record in caplog.records] == ["an error is no note", "behind"]
    assert [str(warning.message) for warning in recwarn] == ["behind"]


def test_blocks_of_two_threads_that_overlap_leave_nothing_silent(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """The first that enters leaves first: what it put back is not what the second found."""
    both, left = threading.Barrier(2, timeout=30), threading.Event()

    def first() -> None:
        with quiet():
            both.wait()
        left.set()

    def second() -> None:
        with quiet():
            both.wait()
            assert left.wait(30)
            speak("inside")

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(first), pool.submit(second)
        for future in running:
            future.result(30)
    speak("behind")
    assert capsys.readouterr().out == "behind\n"
    assert [record.message for record in caplog.records] == ["behind"]
    assert [str(warning.message) for warning in recwarn] == ["behind"]


def test_a_block_that_fails_gives_the_voice_back(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(ZeroDivisionError), quiet():
        raise ZeroDivisionError
    logging.getLogger("torch").warning("behind")
    assert caplog.messages == ["behind"]
