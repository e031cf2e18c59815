"""The folder that a team begins with: a recipe, functions of its own, their tests, a deployment."""
