"""Running a program that may be hostile against tests that it must not reach.

Two processes, each in a cage: the *program*, and the *examiner*, which runs the tests. What the tests call is a stand-in that sends
plain data to the program and gets plain data back, so the program shares no interpreter with the tests, never sees them, and cannot say
that they passed. ``cage``, ``plain``, ``program`` and ``examiner`` run in bare interpreters: they import the standard library alone.
"""
