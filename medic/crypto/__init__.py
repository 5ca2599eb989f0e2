"""All cryptography of Medic, so that an auditor reads one folder.

`api_keys` mints and checks keys, `sealing` keeps secrets at rest, `signatures` signs and verifies requests,
`audit_chain` makes edits of the audit log visible, `redaction` takes secrets out of text.  Nothing here
touches a network, a database or a clock.
"""
