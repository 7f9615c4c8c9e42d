// A component of componentize-js alone, with the `fetch` event that it offers by default: `/echo` streams the body back,
// `/fail` throws, any other path is greeted.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const { pathname } = new URL(request.url);
  switch (pathname) {
    case "/echo":
      return new Response(request.body);
    case "/fail":
      throw new Error("told to fail");
    default:
      return new Response(`Hello from JavaScript at ${pathname}\n`);
  }
}
