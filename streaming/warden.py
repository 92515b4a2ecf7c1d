"""Run one command that must not outlive the process that asked for it; a script, started by `broker`.

The asking process holds the write end of this script's standard input and never writes: when it ends, however it
ends (`kill -9` included), the kernel closes the pipe, the read below returns, and the command is ended: SIGTERM,
then SIGKILL after ten seconds. Unlike Linux's parent-death signal this does not depend on which *thread* asked,
and it works wherever pipes do. It is run by path with `-I -S`, imports no headrace, and costs about 10 MB.

Protocol: the first argument is `attached` or `detached`, the rest is the command, whose output goes to this
script's standard error. One line with the command's pid goes to standard output. Detached, the script then ends at
once and the command lives on by itself; attached, it ends with the command.
"""

import os
import subprocess
import sys
import threading

GRACE_S = 10


def main(mode: str, command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    os.write(1, f"{child.pid}\n".encode())
    os.close(1)  # the asker reads to the end
    if mode == "detached":
        return 0

    def end_with_the_asker() -> None:
        os.read(0, 1)
        child.terminate()  # Popen knows whether the child was reaped, so this cannot hit a reused pid
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=end_with_the_asker, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2:])
    sys.stderr.flush()
    os._exit(status & 0xFF)  # the thread above may sit in its read for as long as the asker lives
