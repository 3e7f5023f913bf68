"""Labels that models give: answers of a teacher, and preferences of a judge."""
