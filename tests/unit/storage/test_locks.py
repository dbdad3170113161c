"""Does a fork leave a lock usable?"""

import os
import threading

from storage.locks import ForkSafeLock


def test_a_lock_that_another_thread_held_is_free_after_a_fork():
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if lock._lock.acquire(blocking=False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not lock._lock.acquire(blocking=False)
    done.set()
    thread.join()
