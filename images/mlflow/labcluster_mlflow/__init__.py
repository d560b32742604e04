"""MLflow for many projects: the door in front of its server, which only the portal can open.

What arrives must carry an assertion of the portal: who, and for which one project. The door alone decides
what MLflow gets to see: one account for each person and project, that project's workspace, and the routes of
routes.txt.
"""
