"""Faults at random moments, over and over: every cell must end with the right verdict, every host as it was found.

``python -m harness.trouble`` starts two emulated hosts of its own, which outlive the runs, reaches them as a lab
reaches FreeBSD machines (SSH, power and console by commands), breaks something in each trial and holds what is left
against :mod:`harness.trouble.invariants`.
"""
