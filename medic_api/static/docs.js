"use strict";

/* Swagger UI 4 draws documents of OpenAPI 3.0 only. Ours is 3.1; what it uses of it (a type "null" beside
   others, "const") is drawn well enough, so the copy on this page names the older version. */
function asVersion30(part) {
  if (Array.isArray(part)) {
    return part.map(asVersion30);
  }
  if (part === null || typeof part !== "object") {
    return part;
  }
  const made = {};
  for (const [key, value] of Object.entries(part)) {
    if (key === "anyOf" && Array.isArray(value)) {
      const rest = value.filter((option) => option.type !== "null");
      if (rest.length === 1 && rest.length < value.length) {
        Object.assign(made, asVersion30(rest[0]), { nullable: true });
        continue;
      }
    }
    if (key === "const") {
      made.enum = [value];
      continue;
    }
    made[key] = asVersion30(value);
  }
  return made;
}

async function draw() {
  const holder = document.getElementById("swagger-ui");
  const answer = await fetch("/openapi.json");
  if (!answer.ok) {
    holder.textContent = `The document could not be read (${answer.status}). Reload in a minute.`;
    return;
  }
  const spec = asVersion30(await answer.json());
  spec.openapi = "3.0.3";
  spec.servers = [{ url: "/" }];
  SwaggerUIBundle({
    spec,
    domNode: holder,
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
}

draw();
