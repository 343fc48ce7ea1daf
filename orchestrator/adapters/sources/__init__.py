"""How does any source become plain text that chunks can be ranges of?

A single file of UTF-8 text is read in place, and nothing is written. Everything else (`reading.py`) is turned, in one
pass, into a private spool file (`spool.py`) of the same rows: packed files (`packed.py`), other encodings and several
files (`text.py`), JSON lines (`jsonlines.py`), workbooks (`workbook.py`), Parquet and queries (`tables.py`).

The same originals, read the same way, give the same bytes: a load is known by them. Blocking throughout.
"""
