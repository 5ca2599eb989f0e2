"""The local stack behind `medic up`, `medic demo` and the tests: the servers, the keys, the processes.

launch      starts one program that cannot outlive us (a script of its own)
program     what is to run; process: one running of it
stream      one log stream, each line with its component
supervisor  starts, watches, restarts, stops in order
folder      the data folder, its lock and its socket folder
leftovers   ends what a killed run left behind
keys        the keys that Medic makes for itself
identity    who runs PostgreSQL when we are root
postgres, valkey, servers   the two servers
components, stack           everything together
"""
