"""The playbook language: YAML in, frozen documents out.  Pure: no clock, no database, no network.

    text ─▶ source (nodes with line and column) ─▶ reader ─▶ grammar ─▶ document
                                                     │
                              template · address · expression  (parsed once, rendered with a Scope)

``medic.steps`` stands on top: each step type reads its own keys with the reader.
"""
