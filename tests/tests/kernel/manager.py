"""Plays the part of systemd (FileDescriptorStoreMax=1, Restart=always, RestartSec=1).

manager.py SOCKET PIDFILE COMMAND…: starts the command, holds the descriptor that it stores, and starts it
again with that when it ends.
"""
import os
import select
import socket
import sys
import time

path, pidfile, *command = sys.argv[1:]
notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notifications.bind(path)
kept = None
while True:
    child = os.fork()
    if child == 0:
        os.environ["NOTIFY_SOCKET"] = path
        if kept is not None:
            os.dup2(kept, 3)
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="ike")
        os.execvp(command[0], command)
    end = os.pidfd_open(child)
    with open(pidfile, "w", encoding="ascii") as file:
        file.write(str(child))
    while True:
        ready, _, _ = select.select([notifications, end], [], [])
        if notifications in ready:
            message, descriptors, _, _ = socket.recv_fds(notifications, 4096, 1)
            lines = message.decode().splitlines()
            if kept is not None and ("FDSTOREREMOVE=1" in lines or descriptors):
                os.close(kept)
                kept = None
            if "FDSTORE=1" in lines:
                kept = descriptors[0]
        elif end in ready:
            break
    os.close(end)
    os.waitpid(child, 0)
    time.sleep(1)
