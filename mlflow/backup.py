"""Save the registry's database to a bucket, and restore it.

The variables of libpq (PGHOST, PGUSER, PGPASSWORD, PGDATABASE) name the database, SEGLINE_BACKUPS is the address of the
backups, for example ``s3://segline/backups/mlflow``, and the variables of boto3 give access to the bucket. A backup
does not contain the files of models, which are in the bucket already.
"""

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

SUFFIX = ".dump"
EMPTY = "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"
"""A restore removes everything first: remaining tables of a newer MLflow would stop its next upgrade."""
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Backups:
    """The backups in a bucket."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.client: Any = boto3.client("s3")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/") + "/"

    def all(self) -> dict[str, datetime]:
        """Return the name and time of each backup, the oldest first: a name begins with its time."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        times = {
            entry["Key"].removeprefix(self.prefix): entry["LastModified"]
            for page in pages
            for entry in page.get("Contents", [])
            if entry["Key"].endswith(SUFFIX)
        }
        return dict(sorted(times.items()))

    def save(self, keep: int) -> str:
        """Write a backup, delete all but the newest ``keep``, and return the name of the new one.

        A dump is uploaded only when it is complete, and an older one is deleted only when the new one is stored.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")
            _run("pg_restore", "--list", str(path))
            self.client.upload_file(str(path), self.bucket, self.prefix + name)
        for old in list(self.all())[:-keep]:
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + old)
        return name

    def restore(self, name: str | None) -> str:
        """Replace the content of the database by a backup, by default the newest: completely or not at all."""
        known = list(self.all())
        if not known:
            sys.exit(f"backup: no backup in s3://{self.bucket}/{self.prefix}")
        name = name or known[-1]
        if name not in known:
            sys.exit(f"backup: no backup {name}; known are {', '.join(known)}")
        if others := int(_run("psql", "--no-align", "--tuples-only", "--command", OTHERS)):
            sys.exit(f"backup: other connections to the database: {others}; stop the tracking server first")
        with TemporaryDirectory() as folder:
            dump, empty, tables = (Path(folder, part) for part in ("dump", "empty.sql", "tables.sql"))
            self.client.download_file(self.bucket, self.prefix + name, str(dump))
            empty.write_text(EMPTY, encoding="utf-8")
            _run("pg_restore", "--no-owner", "--no-privileges", f"--file={tables}", str(dump))
            _run(
                "psql",
                "--quiet",
                "--set=ON_ERROR_STOP=1",
                "--single-transaction",
                f"--file={empty}",
                f"--file={tables}",
            )
        return name


def _run(*words: str) -> str:
    """Run a program of PostgreSQL and return its output; its error messages go to stderr."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"backup: {words[0]} failed")
    return done.stdout


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Save the registry's database to a bucket, and restore it.")
    commands = parser.add_subparsers(dest="command", required=True)
    save = commands.add_parser("save", help="write a backup")
    save.add_argument("--keep", type=int, default=30, help="number of backups that are kept (default: 30)")
    restore = commands.add_parser("restore", help="replace the content of the database by a backup")
    restore.add_argument("name", nargs="?", help="name of the backup (default: the newest)")
    commands.add_parser("list", help="list the names of all backups")
    arguments = parser.parse_args()
    if arguments.command == "save" and arguments.keep < 1:
        parser.error("--keep must be at least 1")
    address = os.environ["SEGLINE_BACKUPS"]
    try:
        backups = Backups(address)
        if arguments.command == "save":
            print(f"saved {backups.save(arguments.keep)}")
        elif arguments.command == "restore":
            print(f"restored {backups.restore(arguments.name)}")
        else:
            print("\n".join(backups.all()))
    except (Boto3Error, BotoCoreError, ClientError) as error:
        sys.exit(f"backup: {address}: {error}")


if __name__ == "__main__":
    main()
