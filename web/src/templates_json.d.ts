/** The one file of prompts that Python, C++ and this package share. */
declare module "*/templates.json" {
  const sets: Readonly<Record<"imagenet" | "surgery" | "photo" | "none", readonly string[]>>;
  export default sets;
}
