#!/usr/bin/python3
"""Runs linux_state_test with the default guest: linux_state_test.py PROGRAM CPUS."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../linux"))
import vm  # noqa: E402

kernel, initrd = vm.guest_files()
os.execv(sys.argv[1], [sys.argv[1], kernel, initrd, sys.argv[2]])
