"""Save the registry's database to a bucket, and bring it back.

libpq's variables (PGHOST, PGUSER, PGPASSWORD, PGDATABASE) say which database, SEGLINE_BACKUPS says where the backups
are, e.g. ``s3://segline/backups/mlflow``, and boto3's variables how to reach the bucket. Model files are not in
here: they are in the bucket already.
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
"""A restore leaves nothing of what was there: tables of a newer MLflow would stop its next upgrade."""
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Backups:
    """The backups in a bucket."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.client: Any = boto3.client("s3")
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/") + "/"

    def all(self) -> dict[str, datetime]:
        """Name and time of each, the oldest first: a name begins with its time."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        found = {
            entry["Key"].removeprefix(self.prefix): entry["LastModified"]
            for page in pages
            for entry in page.get("Contents", [])
            if entry["Key"].endswith(SUFFIX)
        }
        return dict(sorted(found.items()))

    def save(self, keep: int) -> str:
        """Write a backup, and delete the oldest but for ``keep``; returns its name.

        The bucket sees a dump only when it is whole, and an older one goes only when the new one is there.
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
        """Put a backup, by default the newest, in the place of what the database holds: all of it or nothing."""
        known = list(self.all())
        if not known:
            sys.exit(f"backup: no backup in s3://{self.bucket}/{self.prefix}")
        name = name or known[-1]
        if name not in known:
            sys.exit(f"backup: no backup {name}; there are {', '.join(known)}")
        if others := int(_run("psql", "--no-align", "--tuples-only", "--command", OTHERS)):
            sys.exit(f"backup: {others} others use the database; stop the tracking server first")
        with TemporaryDirectory() as folder:
            dump, empty, tables = (Path(folder, part) for part in ("dump", "empty.sql", "tables.sql"))
            self.client.download_file(self.bucket, self.prefix + name, str(dump))
            empty.write_text(EMPTY)
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
    """What a program of PostgreSQL says; what it complains of goes where ours does."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"backup: {words[0]} failed")
    return done.stdout


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="The registry's database: save it to a bucket, and bring it back.")
    commands = parser.add_subparsers(dest="command", required=True)
    save = commands.add_parser("save", help="write a backup")
    save.add_argument("--keep", type=int, default=30, help="so many backups stay (default: 30)")
    restore = commands.add_parser("restore", help="replace all that the database holds")
    restore.add_argument("name", nargs="?", help="of the backup (default: the newest)")
    commands.add_parser("list", help="name all backups")
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
