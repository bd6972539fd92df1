"""Wait until PostgreSQL takes writes in each named database, by the PG* variables. Exit code 1: it did not in time."""

import os
import sys
import time

import psycopg

deadline = time.monotonic() + float(sys.argv[1])
for name in sys.argv[2:]:
    while True:
        try:
            with psycopg.connect(dbname=name, connect_timeout=5) as connection:
                connection.execute("CREATE TEMPORARY TABLE written (value integer)")
            print(f"database {name!r} on {os.environ.get('PGHOST')}: reached, and it takes writes", flush=True)
            break
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                sys.exit(f"database {name!r} on {os.environ.get('PGHOST')}: not reached in time: {error}")
            time.sleep(1)
