"""Datasets: where they come from, what a row may be, and the canonical rows that every later step reads.

sources    where the bytes come from (files, folders, globs, Cloud Storage), as numbered lines
strict_json, fields, dialogue, vertex_*, formats
           what a row may be: one file and one line of the tables in `formats` for each format
other_files, nearest
           what a file or a row that is none of these was probably meant to be
layout, well_known, by_names, record_files, feedback_pairs, convert
           how rows of another make become ours; mending tells the command
rows       the one canonical form
reader     sources and formats together: rows with their locations; what is wrong goes to `problems`
check      reads every row of every dataset before money is spent
importer   writes the canonical rows that training and evaluation read
"""
