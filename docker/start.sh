#!/bin/sh
# What the platform runs: this image's program under the supervisor, which is process 1 from here on.
program=/app/start.py
[ -f "$program" ] || program=/app/ymir/start.py
exec ymir-exc run -- python "$program" "$@"
